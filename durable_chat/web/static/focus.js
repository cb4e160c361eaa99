// Where the focus goes when what had it is gone: to the next thing to do, never to the body, where a keyboard finds nothing.

const touch = matchMedia("(pointer: coarse)");

const isUsable = (element) => element.isConnected && !element.disabled && element.checkVisibility({ visibilityProperty: true });

/** Does `work`; where that takes away what has the focus, `next()` gets it. */
export function keepFocus(work, next) {
  const before = document.activeElement;
  const byTouch = touch.matches && !before?.matches(":focus-visible"); // a keyboard must not come up by itself
  work();
  if (before && before !== document.body && !byTouch && !isUsable(before)) next()?.focus({ preventScroll: true });
}
