// Pages work without this; with it they stay up to date. Every part of a page marked `data-live` is taken anew from
// the same address every few seconds, while somebody looks and nothing in it is in use.
"use strict";

const EVERY_MS = 4000;

function inUse(part) {
  return part.contains(document.activeElement) || part.querySelector("details[open]") !== null;
}

async function refresh() {
  const parts = [...document.querySelectorAll("[data-live]")];
  if (document.hidden || parts.length === 0 || String(getSelection())) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10000) });
  if (answer.redirected) return location.reload(); // to the sign-in
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelectorAll("[data-live]");
  if (fresh.length !== parts.length) return;
  parts.forEach((part, number) => {
    if (!inUse(part) && part.innerHTML !== fresh[number].innerHTML) part.replaceWith(fresh[number]);
  });
}

async function keepFresh() {
  try {
    await refresh();
    document.body.classList.remove("stale");
  } catch {
    document.body.classList.add("stale");
  }
  setTimeout(keepFresh, EVERY_MS);
}

setTimeout(keepFresh, EVERY_MS);
