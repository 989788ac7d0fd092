// What scrolls inside its own frame can be reached and scrolled from the keyboard.
"use strict";

(() => {
  // The frames of book.css; a theme's script does the same for code.
  const FRAMES =
    ".table-container, .pst-scrollable-table-container, .cell_output .output, .panel, div.math, pre";

  function mark() {
    for (const frame of document.querySelectorAll(FRAMES)) {
      const style = getComputedStyle(frame);
      const wide = frame.scrollWidth > frame.clientWidth && /auto|scroll/.test(style.overflowX);
      const high = frame.scrollHeight > frame.clientHeight && /auto|scroll/.test(style.overflowY);
      if (wide || high) frame.tabIndex = 0;
      else if (frame.tabIndex === 0) frame.removeAttribute("tabindex");
    }
  }

  // Mathematics is typeset late, folds open, windows and tables change their width.
  const watch = () => {
    const observer = new ResizeObserver(() => requestAnimationFrame(mark));
    for (const frame of document.querySelectorAll(FRAMES)) observer.observe(frame);
    mark();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", watch);
  else watch();
})();
