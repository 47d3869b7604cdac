// The scan of snnkit/scan.py in one pass over memory: the same operations in the same order, so the same spikes and
// membranes, bit for bit; gradients to the last digit.
// Compiled on the machine at hand by snnkit/native.py; without a compiler the tensor operations of scan.py serve.

#include <cstdint>
#include <cstring>

namespace {

constexpr long BLOCK = 2048;  // neurons at a time: their membranes stay in a core's first cache for all steps

struct bf16 { uint16_t bits; };

inline float widen(float x) { return x; }
inline float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

inline void put(float x, float& out) { out = x; }
inline void put(float x, uint8_t& out) { out = uint8_t(x); }
inline void put(float x, bf16& out) {  // rounded to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    out.bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

struct Neuron {
    float leak, window, height;
    const float* thresholds;
    int own_thresholds;  // one a neuron, else one for all
    int to_zero;         // else by subtraction
};

template <class In, class Out>
double forward(long steps, long neurons, const In* currents, float* membrane, Out* spikes, int8_t* codes,
               const Neuron& neuron, int threads) {
    double count = 0;
    const float leak = neuron.leak, window = neuron.window;
    const bool to_zero = neuron.to_zero;
    #pragma omp parallel for num_threads(threads) reduction(+ : count) if (steps * neurons > 65536)
    for (long start = 0; start < neurons; start += BLOCK) {
        const long size = neurons - start < BLOCK ? neurons - start : BLOCK;
        float u[BLOCK], limit[BLOCK];
        std::memcpy(u, membrane + start, size * sizeof(float));
        for (long i = 0; i < size; i++) limit[i] = neuron.thresholds[neuron.own_thresholds ? start + i : 0];
        for (long t = 0; t < steps; t++) {
            const In* in = currents + t * neurons + start;
            Out* out = spikes + t * neurons + start;
            int8_t* code = codes ? codes + t * neurons + start : nullptr;
            int fired = 0;
            for (long i = 0; i < size; i++) {
                const float v = u[i] * leak + widen(in[i]);
                const int spike = v >= limit[i];
                if (code) {
                    const float distance = v - limit[i];
                    code[i] = int8_t(((distance < 0 ? -distance : distance) <= window) + 2 * spike);
                }
                put(float(spike), out[i]);
                u[i] = spike ? (to_zero ? 0.f : v - limit[i]) : v;
                fired += spike;
            }
            count += fired;
        }
        std::memcpy(membrane + start, u, size * sizeof(float));
    }
    return count;
}

template <class T>
void backward(long steps, long neurons, const T* of_spikes, float* of_membrane, const int8_t* codes, T* of_currents,
              const Neuron& neuron, int threads) {
    const float leak = neuron.leak, height = neuron.height;
    const bool to_zero = neuron.to_zero;
    #pragma omp parallel for num_threads(threads) if (steps * neurons > 65536)
    for (long start = 0; start < neurons; start += BLOCK) {
        const long size = neurons - start < BLOCK ? neurons - start : BLOCK;
        float g[BLOCK];
        std::memcpy(g, of_membrane + start, size * sizeof(float));
        for (long t = steps - 1; t >= 0; t--) {
            const T* in = of_spikes + t * neurons + start;
            T* out = of_currents + t * neurons + start;
            const int8_t* code = codes + t * neurons + start;
            for (long i = 0; i < size; i++) {
                const float kept = to_zero && (code[i] & 2) ? 0.f : g[i];
                const float slope = code[i] & 1 ? height : 0.f;
                const float v = kept + slope * widen(in[i]);
                put(v, out[i]);
                g[i] = v * leak;
            }
        }
        std::memcpy(of_membrane + start, g, size * sizeof(float));
    }
}

}  // namespace

#define FORWARD(name, In, Out)                                                                                 \
    extern "C" double name(long steps, long neurons, const In* currents, float* membrane, Out* spikes,        \
                           int8_t* codes, const Neuron* neuron, int threads) {                                 \
        return forward(steps, neurons, currents, membrane, spikes, codes, *neuron, threads);                   \
    }
FORWARD(forward_float32_float32, float, float)
FORWARD(forward_float32_uint8, float, uint8_t)
FORWARD(forward_bfloat16_bfloat16, bf16, bf16)
FORWARD(forward_bfloat16_uint8, bf16, uint8_t)

#define BACKWARD(name, T)                                                                                      \
    extern "C" void name(long steps, long neurons, const T* of_spikes, float* of_membrane, const int8_t* codes, \
                         T* of_currents, const Neuron* neuron, int threads) {                                  \
        backward(steps, neurons, of_spikes, of_membrane, codes, of_currents, *neuron, threads);                \
    }
BACKWARD(backward_float32, float)
BACKWARD(backward_bfloat16, bf16)
