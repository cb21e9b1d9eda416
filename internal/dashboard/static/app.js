// Keyboard shortcuts, copy buttons and announcements for screen readers. The pages work
// without this script.
(function () {
  "use strict";
  var body = document.body;
  body.classList.remove("no-script");

  function say(text) {
    var live = document.getElementById("live");
    if (live) live.textContent = text;
  }

  // A page that could not be served, or shows less than there is, asks for itself again, and
  // is loaded when it waits for nothing any more; not while rows are selected or a field is in
  // use. Like every automatic request, this must not extend the session (see live.js).
  var waiting = document.querySelector("main[data-renew]");
  function renew() {
    var inUse = document.querySelector("main input:checked, main :is(input, select, textarea):focus");
    if (document.hidden || inUse) return wait();
    fetch(location.href, { headers: { "HX-Request": "true", Accept: "text/html" } }).then(function (answer) {
      if (answer.status >= 500) return wait();
      return answer.text().then(function (text) {
        if (new DOMParser().parseFromString(text, "text/html").querySelector("main[data-renew]")) wait(); else location.reload();
      });
    }).catch(wait);
  }
  function wait() { setTimeout(renew, 1000 * waiting.dataset.renew); }
  if (waiting) wait();

  // A copy button follows the text that it copies.
  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-copy]");
    if (!button) return;
    var text = button.parentElement.querySelector("code").textContent;
    var done = function () { button.textContent = "Copied"; say("Copied"); setTimeout(function () { button.textContent = "Copy"; }, 2000); };
    var select = function () {
      var range = document.createRange();
      range.selectNodeContents(button.parentElement.querySelector("code"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      say("Selected. Copy it with your keyboard");
    };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, select); else select();
  });

  // Notifications of the browser: asked for on this click only.
  var notices = document.querySelector("[data-notices]");
  function noticesAre() {
    var on = Notification.permission === "granted" && localStorage.getItem("certpost-notices") === "on";
    notices.hidden = Notification.permission === "denied";
    notices.textContent = on ? "Stop notifying me" : "Notify me";
    document.querySelector("[data-notices-state]").textContent = on ? "Notifications are on in this browser." :
      Notification.permission === "denied" ? "This browser blocks notifications of this address; allow them in its settings." : "Notifications are off in this browser.";
    return on;
  }
  if (notices && window.Notification && navigator.locks) {
    noticesAre();
    notices.addEventListener("click", function () {
      if (noticesAre()) { localStorage.removeItem("certpost-notices"); noticesAre(); return; }
      Notification.requestPermission().then(function (answer) {
        if (answer === "granted") localStorage.setItem("certpost-notices", "on");
        noticesAre();
      });
    });
  }

  // A checkbox that selects all rows of a page.
  document.addEventListener("change", function (event) {
    var all = event.target.closest("[data-all]");
    if (!all) return;
    document.querySelectorAll('[data-row] input[type="checkbox"]').forEach(function (box) { box.checked = all.checked; });
  });

  // New items are announced; they do not change the list under the pointer.
  document.addEventListener("htmx:afterSwap", function (event) {
    if (event.target.id === "news" && event.target.textContent.trim()) say(event.target.textContent.trim());
  });

  if (body.dataset.keys === "off") return;

  function rows() { return Array.from(document.querySelectorAll("[data-row]")); }
  function current() { return document.querySelector("[data-row].at"); }
  function move(step) {
    var all = rows();
    if (!all.length) return;
    var at = all.indexOf(current());
    var next = all[Math.max(0, Math.min(all.length - 1, at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step))];
    all.forEach(function (row) { row.classList.toggle("at", row === next); });
    next.querySelector("a").focus();
    next.scrollIntoView({ block: "nearest" });
  }
  function go(id) {
    var part = document.getElementById(id);
    if (part) {
      if (part.tagName === "DETAILS") part.open = true;
      var field = part.querySelector("input:not([type=hidden])") || part.querySelector("button") || part.querySelector("summary");
      if (field) field.focus();
      part.scrollIntoView({ block: "nearest" });
      return;
    }
    // On a list the same keys press the button for the selected rows.
    var button = document.querySelector('button[name="action"][value="' + id + '"]');
    if (button) button.click();
  }

  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog[open]")) return;
    var box;
    switch (event.key) {
      case "/": box = document.querySelector('input[type="search"]'); if (!box) return; box.focus(); box.select(); break;
      case "j": move(1); break;
      case "k": move(-1); break;
      case "x": box = current() && current().querySelector('input[type="checkbox"]'); if (!box) return; box.checked = !box.checked; say(box.checked ? "selected" : "not selected"); break;
      case "r": go("replay"); break;
      case "e": go("discard"); break;
      case "?": document.getElementById("keys").showModal(); break;
      default: return;
    }
    event.preventDefault();
  });
})();
