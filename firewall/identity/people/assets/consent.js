// Allow works one second after the page got the focus, so that a click or a key meant for something else
// decides nothing (UI-08). Without this script Allow stays disabled.
"use strict";
(() => {
  const WAIT_MS = 1000;
  const buttons = document.querySelectorAll("button.guarded");
  let timer = 0;
  const set = (disabled) => buttons.forEach((button) => { button.disabled = disabled; });
  const disarm = () => { clearTimeout(timer); set(true); };
  const arm = () => {
    disarm();
    if (document.visibilityState === "visible" && document.hasFocus()) {
      timer = setTimeout(() => set(false), WAIT_MS);
    }
  };
  addEventListener("focus", arm);
  addEventListener("blur", disarm);
  addEventListener("pageshow", arm);
  addEventListener("pagehide", disarm);
  document.addEventListener("visibilitychange", arm);
  arm();
})();
