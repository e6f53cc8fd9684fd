// "/" goes to the search box, Escape leaves it. An open form is kept while the page refreshes itself.
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    document.getElementById("find")?.focus();
  } else if (event.key === "Escape" && typing) {
    document.activeElement.blur();
  }
});
document.addEventListener("htmx:beforeSwap", (event) => {
  const target = event.detail.target;
  const status = event.detail.xhr.status;
  if (target.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, button, a")
      && !event.detail.requestConfig.elt.matches("form")) {
    event.detail.shouldSwap = false;
  } else if (target.querySelector(".actions details[open]")) {
    event.detail.shouldSwap = false;
  } else if (status >= 400 && event.detail.requestConfig.elt.matches("form")) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  }
  document.body.classList.toggle("stale", status >= 500 || status === 0);
});
document.addEventListener("htmx:sendError", () => document.body.classList.add("stale"));
