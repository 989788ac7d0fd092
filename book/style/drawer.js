/* A link to a cell opens the section that it is folded in. */
function openAround() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && target.closest("details:not([open])");
  if (!folded) return;
  folded.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", openAround);
addEventListener("DOMContentLoaded", openAround);
