// Small repairs of the theme.
"use strict";

// Browsers forbid fetch() on file:// pages: there, search results come without their excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

document.addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll("a.btn-download-source-button")) {
    if (location.protocol === "file:") {
      link.title = "Open the notebook's file in a new tab; save it from there"; // browsers save no file:// link
    } else {
      link.download = "";
      link.removeAttribute("target");
    }
  }
});

window.addEventListener("load", () => {
  for (const button of document.querySelectorAll("button.copybtn")) button.setAttribute("aria-label", "Copy");
});
