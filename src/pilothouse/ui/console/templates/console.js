// A page that says data-refresh is fetched again in place; one that no longer says so (a run that ended) stays still.
const again = async () => {
  const main = document.querySelector("main[data-refresh]");
  if (!main) return;
  try {
    if (!document.hidden) {
      const answer = await fetch(location.href);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
      const log = document.getElementById("log");
      const below = log && log.scrollHeight - log.scrollTop - log.clientHeight;
      const top = log && log.scrollTop;
      if (answer.ok && fresh) main.replaceWith(fresh);
      const now = document.getElementById("log");
      if (log && now) now.scrollTop = below < 8 ? now.scrollHeight : top;
    }
  } catch { /* the server is away: try again */ }
  setTimeout(again, Number(main.dataset.refresh));
};
const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
const first = document.querySelector("main[data-refresh]");
if (first) setTimeout(again, Number(first.dataset.refresh));
