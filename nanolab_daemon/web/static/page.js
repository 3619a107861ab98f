// News without a reload, keys, and a token that is remembered for as long as the tab is open.
"use strict";

(() => {
  const parsed = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  };

  // Bring a list into the given order. An element that stays keeps its place in the keyboard's order, and its focus.
  const update = (list, news) => {
    for (const [id, html] of Object.entries(news.items)) {
      const fresh = parsed(html);
      const old = document.getElementById(id);
      if (old && list.contains(old)) {
        old.className = fresh.className;
        old.href = fresh.href;
        old.replaceChildren(...fresh.childNodes);
      } else {
        const item = document.createElement("li");
        item.className = "fresh";
        item.append(fresh);
        list.append(item);
      }
    }
    const wanted = new Set(news.order);
    for (const item of [...list.children]) {
      if (!item.firstElementChild || !wanted.has(item.firstElementChild.id)) item.remove();
    }
    let at = list.firstElementChild;
    for (const id of news.order) {
      const item = document.getElementById(id)?.parentElement;
      if (!item || item.parentElement !== list) continue;
      if (item === at) at = at.nextElementSibling;
      else list.insertBefore(item, at);
    }
  };

  // What the head says of the daemon is not known any more; the news say it again when they come back.
  const lost = (why) => {
    const dot = document.createElement("span");
    dot.className = "dot lost";
    dot.setAttribute("aria-hidden", "true");
    const words = document.createElement("span");
    words.textContent = why;
    document.getElementById("state").replaceChildren(dot, words);
  };

  const listen = () => {
    const live = document.getElementById("live");
    const runs = document.getElementById("runs");
    const offline = document.getElementById("offline");
    const source = new EventSource("/events");
    source.addEventListener("full", () => {
      source.close();
      lost("No news: too many pages are open");
      setTimeout(listen, 30000);
    });
    source.onopen = () => { if (offline) offline.hidden = true; };
    source.onerror = () => {
      lost("No connection");
      if (offline) offline.hidden = false;
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
    };
    source.addEventListener("state", (event) => {
      const html = JSON.parse(event.data).html;
      if (html) document.getElementById("state").innerHTML = html;
    });
    if (live) source.addEventListener("live", (event) => {
      const news = JSON.parse(event.data);
      update(live, news);
      document.getElementById("live-section").hidden = news.order.length === 0;
    });
    if (runs) source.addEventListener("runs", (event) => {
      const news = JSON.parse(event.data);
      update(runs, news);
      document.getElementById("count").textContent = news.count.toLocaleString("en");
      document.getElementById("empty").hidden = news.order.length > 0;
      document.getElementById("more").hidden = news.count <= news.order.length;
    });
    addEventListener("pagehide", () => source.close());
  };

  const pages = { t: "/", r: "/runs", x: "/rejects", s: "/status" };
  let going = 0;

  const step = (by) => {
    const all = [...document.querySelectorAll("main a.card, main a.row, main a.reject")];
    if (!all.length) return;
    const at = all.indexOf(document.activeElement);
    const next = all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + by))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) return;
    const soon = Date.now() - going < 1500;
    going = 0;
    if (soon && pages[event.key]) location.assign(pages[event.key]);
    else if (event.key === "g") going = Date.now();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "/") {
      const field = document.getElementById("search");
      if (field) field.focus();
      else location.assign("/runs#search");
    } else return;
    event.preventDefault();
  });

  for (const form of document.querySelectorAll("form.retry")) {
    const field = form.elements.token;
    field.value = sessionStorage.getItem("token") || "";
    form.addEventListener("submit", () => sessionStorage.setItem("token", field.value));
  }
  if (location.hash === "#search") document.getElementById("search")?.focus();
  listen();
})();
