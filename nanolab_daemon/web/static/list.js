// A list of any length in one page: only what is near the window is in it, fetched by stretches.
"use strict";

(() => {
  const list = document.getElementById("list");
  if (!list) return;
  const size = Number(list.dataset.size);
  let total = Number(list.dataset.total);
  const first = list.querySelector(".row");
  if (Number(list.dataset.offset) % size || !first) return; // shown as it is, with its links to other pages

  document.getElementById("pager").hidden = true;
  const chunks = new Map(); // number → element
  const pending = new Map(); // number → AbortController
  chunks.set(Number(list.dataset.offset) / size, list.querySelector(".chunk"));
  let height = 0;

  const measure = () => {
    height = parseFloat(getComputedStyle(list).getPropertyValue("--row"));
    list.classList.add("virtual");
    list.style.height = `${total * height}px`;
    for (const [number, chunk] of chunks) chunk.style.top = `${number * size * height}px`;
  };

  const near = () => {
    const top = Math.max(0, -list.getBoundingClientRect().top);
    const from = Math.floor((top - innerHeight) / height / size);
    const to = Math.floor((top + 2 * innerHeight) / height / size);
    const found = [];
    for (let number = Math.max(0, from); number <= Math.min(to, Math.floor((total - 1) / size)); number += 1) {
      found.push(number);
    }
    return found;
  };

  const fetchChunk = async (number) => {
    const abort = new AbortController();
    pending.set(number, abort);
    try {
      const query = list.dataset.query ? `${list.dataset.query}&` : "";
      const answer = await fetch(`/runs/rows?${query}offset=${number * size}&limit=${size}`, { signal: abort.signal });
      if (!answer.ok) throw new Error(String(answer.status));
      const html = await answer.text();
      const now = Number(answer.headers.get("X-Total"));
      if (now !== total) {
        total = now;
        document.getElementById("total").textContent = total.toLocaleString("en");
        list.style.height = `${total * height}px`;
      }
      const chunk = document.createElement("div");
      chunk.className = "chunk";
      chunk.innerHTML = html;
      chunk.style.top = `${number * size * height}px`;
      chunks.get(number)?.remove();
      chunks.set(number, chunk);
      place(number, chunk);
    } catch (error) {
      if (error.name !== "AbortError") setTimeout(settle, 2000);
    } finally {
      pending.delete(number);
    }
  };

  // In the order of the list, so that the keyboard meets the rows as the eye does.
  const place = (number, chunk) => {
    const after = [...chunks.keys()].filter((other) => other > number).sort((a, b) => a - b)[0];
    list.insertBefore(chunk, after === undefined ? null : chunks.get(after));
  };

  const settle = () => {
    const wanted = new Set(near());
    for (const [number, abort] of pending) if (!wanted.has(number)) abort.abort();
    for (const [number, chunk] of chunks) {
      if (!wanted.has(number) && !chunk.contains(document.activeElement)) {
        chunk.remove();
        chunks.delete(number);
      }
    }
    for (const number of wanted) if (!chunks.has(number) && !pending.has(number)) fetchChunk(number);
  };

  let timer = 0;
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(settle, 60);
  };
  measure();
  if (Number(list.dataset.offset)) scrollTo(0, list.offsetTop + Number(list.dataset.offset) * height);
  addEventListener("scroll", soon, { passive: true });
  addEventListener("resize", () => { measure(); soon(); });
  settle();
})();
