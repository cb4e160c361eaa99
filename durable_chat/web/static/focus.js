// Moves the focus when the focused element is removed: to the next control, never to the body, where keyboard users get lost.

const touch = matchMedia("(pointer: coarse)");

const isUsable = (element) => element.isConnected && !element.disabled && element.checkVisibility({ visibilityProperty: true });

/** Focuses `wanted`, or `next()` if it is hidden or disabled: the browser refuses the focus then, and it would go to the body. */
export function focusOr(wanted, next) {
  (isUsable(wanted) ? wanted : next())?.focus();
}

/** Does `work`. If that removes the focused element, `next()` gets the focus. */
export function keepFocus(work, next) {
  const before = document.activeElement;
  const byTouch = touch.matches && !before?.matches(":focus-visible"); // an on-screen keyboard must not open by itself
  work();
  if (before && before !== document.body && !byTouch && !isUsable(before)) next()?.focus({ preventScroll: true });
}
