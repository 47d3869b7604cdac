// The scan of snnkit/scan.py in one pass over memory: the same operations in the same order, so the same spikes and
// membranes, bit for bit; gradients to the last digit.
// Compiled on the machine at hand by snnkit/native.py; without a compiler the tensor operations of scan.py serve.

#include <cstdint>
#include <cstring>
#include <type_traits>

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

enum Surrogate { NONE, WINDOW, TRIANGLE, SPIKE_TIME };

struct Neuron {
    int surrogate;
    float leak, window, height;  // height: of the window, or of the triangle
    const float* thresholds;
    const float* slopes;  // SPIKE_TIME: by the steps since the latest spike
    long longest;         // slopes there are; none for a neuron silent for longer
    int own_thresholds;   // one a neuron, else one for all
    int to_zero;          // else by subtraction
};

// What the gradient remembers of a step: codes where the surrogate is a window, else its slope.
template <Surrogate surrogate>
using Kept = std::conditional_t<surrogate == WINDOW, int8_t, float>;

template <Surrogate surrogate, class In, class Out>
double forward(long steps, long neurons, const In* currents, float* membrane, float* since, Out* spikes,
               Kept<surrogate>* kept, const Neuron& neuron, int threads) {
    double count = 0;
    const float leak = neuron.leak, window = neuron.window, height = neuron.height, longest = neuron.longest;
    const float* slopes = neuron.slopes;
    const bool to_zero = neuron.to_zero;
    #pragma omp parallel for num_threads(threads) reduction(+ : count) if (steps * neurons > 65536)
    for (long start = 0; start < neurons; start += BLOCK) {
        const long size = neurons - start < BLOCK ? neurons - start : BLOCK;
        float u[BLOCK], limit[BLOCK], age[BLOCK];  // age: steps since the latest spike
        std::memcpy(u, membrane + start, size * sizeof(float));
        if (surrogate == SPIKE_TIME) std::memcpy(age, since + start, size * sizeof(float));
        for (long i = 0; i < size; i++) limit[i] = neuron.thresholds[neuron.own_thresholds ? start + i : 0];
        for (long t = 0; t < steps; t++) {
            const In* in = currents + t * neurons + start;
            Out* out = spikes + t * neurons + start;
            Kept<surrogate>* keep = surrogate == NONE ? nullptr : kept + t * neurons + start;
            int fired = 0;
            for (long i = 0; i < size; i++) {
                const float v = u[i] * leak + widen(in[i]);
                const int spike = v >= limit[i];
                const float away = v < limit[i] ? limit[i] - v : v - limit[i];
                if (surrogate == WINDOW) keep[i] = (away <= window) + 2 * spike;
                if (surrogate == TRIANGLE) {
                    const float slope = 1 - away / limit[i];
                    keep[i] = height * (slope < 0 ? 0.f : slope);
                }
                if (surrogate == SPIKE_TIME) {
                    keep[i] = age[i] < longest ? slopes[int(age[i])] : 0.f;
                    age[i] = spike ? 1.f : age[i] + 1;
                }
                put(float(spike), out[i]);
                u[i] = spike ? (to_zero ? 0.f : v - limit[i]) : v;
                fired += spike;
            }
            count += fired;
        }
        std::memcpy(membrane + start, u, size * sizeof(float));
        if (surrogate == SPIKE_TIME) std::memcpy(since + start, age, size * sizeof(float));
    }
    return count;
}

template <class T, class Kept>
void backward(long steps, long neurons, const T* of_spikes, float* of_membrane, const Kept* kept, const T* spikes,
              T* of_currents, const Neuron& neuron, int threads) {
    constexpr bool coded = std::is_same_v<Kept, int8_t>;  // then the spikes are in the codes
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
            const Kept* known = kept + t * neurons + start;
            const T* out_then = coded ? nullptr : spikes + t * neurons + start;
            for (long i = 0; i < size; i++) {
                bool fired;
                float slope;
                if constexpr (coded) {
                    fired = known[i] & 2;
                    slope = known[i] & 1 ? height : 0.f;
                } else {
                    fired = widen(out_then[i]) > 0;
                    slope = known[i];
                }
                const float left = to_zero && fired ? 0.f : g[i];
                const float v = left + slope * widen(in[i]);
                put(v, out[i]);
                g[i] = v * leak;
            }
        }
        std::memcpy(of_membrane + start, g, size * sizeof(float));
    }
}

template <class In, class Out>
double forward_of_any(long steps, long neurons, const In* currents, float* membrane, float* since, Out* spikes,
                      void* kept, const Neuron& neuron, int threads) {
    const auto run = [&](auto kind, auto* kept) {
        return forward<kind.value>(steps, neurons, currents, membrane, since, spikes, kept, neuron, threads);
    };
    switch (neuron.surrogate) {
        case WINDOW: return run(std::integral_constant<Surrogate, WINDOW>{}, static_cast<int8_t*>(kept));
        case TRIANGLE: return run(std::integral_constant<Surrogate, TRIANGLE>{}, static_cast<float*>(kept));
        case SPIKE_TIME: return run(std::integral_constant<Surrogate, SPIKE_TIME>{}, static_cast<float*>(kept));
    }
    return run(std::integral_constant<Surrogate, NONE>{}, static_cast<float*>(nullptr));
}

template <class T>
void backward_of_any(long steps, long neurons, const T* of_spikes, float* of_membrane, const void* kept,
                     const T* spikes, T* of_currents, const Neuron& neuron, int threads) {
    const auto run = [&](const auto* kept) {
        backward(steps, neurons, of_spikes, of_membrane, kept, spikes, of_currents, neuron, threads);
    };
    spikes ? run(static_cast<const float*>(kept)) : run(static_cast<const int8_t*>(kept));
}

}  // namespace

#define FORWARD(name, In, Out)                                                                                      \
    extern "C" double name(long steps, long neurons, const In* currents, float* membrane, float* since, Out* spikes, \
                           void* kept, const Neuron* neuron, int threads) {                                          \
        return forward_of_any(steps, neurons, currents, membrane, since, spikes, kept, *neuron, threads);            \
    }
FORWARD(forward_float32_float32, float, float)
FORWARD(forward_float32_uint8, float, uint8_t)
FORWARD(forward_bfloat16_bfloat16, bf16, bf16)
FORWARD(forward_bfloat16_uint8, bf16, uint8_t)

#define BACKWARD(name, T)                                                                                            \
    extern "C" void name(long steps, long neurons, const T* of_spikes, float* of_membrane, const void* kept,         \
                         const T* spikes, T* of_currents, const Neuron* neuron, int threads) {                       \
        backward_of_any(steps, neurons, of_spikes, of_membrane, kept, spikes, of_currents, *neuron, threads);        \
    }
BACKWARD(backward_float32, float)
BACKWARD(backward_bfloat16, bf16)
