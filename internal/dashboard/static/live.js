// Live updates: an event stream says what has changed, and htmx fetches the parts of the
// page that show it. This script prevents updates from disturbing the reader, and tells
// the reader when the page is out of date.
(function () {
  "use strict";
  if (!window.htmx) return;

  // Messages for the reader when the page cannot be kept up to date.
  var troubles = {
    away: "Certpost does not respond. This page may be out of date; it updates automatically when Certpost responds again.",
    many: "This page has no live updates: too many pages are open. Close some, or reload this page from time to time.",
    gone: "Something on this page no longer exists. Reload the page.",
    out: "You are signed out, and this page has no live updates any more. "
  };
  var trouble = "", leaving = false;
  window.addEventListener("pagehide", function () { leaving = true; }); // requests in progress will fail

  function tell(what) {
    var place = document.getElementById("state");
    if (!place || leaving || what === trouble) return;
    trouble = what;
    place.replaceChildren();
    if (!what) return;
    var line = document.createElement("p");
    line.className = "note warn";
    line.append(troubles[what]);
    if (what === "out") {
      var link = document.createElement("a");
      link.href = "/sign-in?return=" + encodeURIComponent(location.pathname + location.search);
      link.textContent = "Sign in";
      line.append(link);
    }
    place.append(line);
  }

  // Over HTTP/1.1 a browser opens at most six connections to a host, and a stream
  // occupies one. So a hidden page closes its stream, and catches up when it is visible
  // again. htmx creates its event source with this function.
  var names = ["letters", "runs", "lanes", "audit"];
  var pace = 2000;  // minimum time between two refreshes for one kind of change, in ms
  var again = 5000; // delay before a broken stream is retried, in ms

  // If the reader has allowed notifications in the settings, one page of this browser keeps its
  // stream also while it is hidden, and shows them. The others wait for its lock.
  var tells = false, streams = [];
  if (window.Notification && Notification.permission === "granted" && localStorage.getItem("certpost-notices") === "on" && navigator.locks) {
    navigator.locks.request("certpost-notices", function () {
      tells = true;
      streams.forEach(function (again) { again(); });
      return new Promise(function () {}); // until the page is closed
    });
  }
  function show(text) {
    var news = JSON.parse(text);
    var shown = new Notification(news.title, { body: news.text, tag: news.tag });
    shown.onclick = function () { window.focus(); location.assign(new URL(news.url, location.origin)); shown.close(); };
  }
  function count(open) {
    var icon = document.querySelector("link[rel=icon][data-plain]");
    if (icon) icon.href = open === "0" ? icon.dataset.plain : "/icon/" + open;
  }

  function Source(url) {
    var self = new EventTarget(), inner = null, timer = 0, opened = false, passed = {};
    self.readyState = 0;
    self.close = function () { self.readyState = 2; clearTimeout(timer); if (inner) inner.close(); };

    function pass(name, data) {
      var next = passed[name] || (passed[name] = { at: 0 });
      if (next.timer) return; // an event is scheduled already
      next.timer = setTimeout(function () {
        next.timer = 0;
        next.at = Date.now();
        self.dispatchEvent(new MessageEvent(name, { data: data }));
      }, Math.max(0, next.at + pace - Date.now()));
    }
    function open() {
      clearTimeout(timer);
      if (inner) inner.close();
      inner = null;
      if (self.readyState === 2 || document.hidden && !tells) return;
      inner = new EventSource(tells ? url + "&notices=yes" : url); // starts with what has changed since the page was rendered
      names.forEach(function (name) {
        inner.addEventListener(name, function (event) { pass(name, event.data); });
      });
      inner.addEventListener("count", function (event) { count(event.data); });
      inner.addEventListener("notice", function (event) { show(event.data); });
      inner.onopen = function () {
        clearTimeout(timer);
        self.readyState = 1;
        tell("");
        if (opened) renew();
        opened = true;
      };
      inner.onerror = function () {
        clearTimeout(timer);
        timer = setTimeout(why, this.readyState === 2 ? 0 : again); // until then the browser retries
      };
    }
    // An EventSource does not report why it failed, so the status is fetched here.
    function why() {
      var asked = new AbortController();
      if (inner) inner.close();
      fetch(url, { headers: { Accept: "text/event-stream" }, signal: asked.signal }).then(function (answer) {
        asked.abort();
        switch (answer.status) {
          case 200: return open();
          case 401: return tell("out"); // retried when the page becomes visible again
          case 429: tell("many"); timer = setTimeout(open, 12 * again); return;
          default: throw answer.status;
        }
      }).catch(function () {
        tell("away");
        timer = setTimeout(why, again);
      });
    }
    document.addEventListener("visibilitychange", function () { if (self.readyState !== 2 && !(tells && inner)) open(); });
    streams.push(open);
    open();
    return self;
  }
  window.htmx.createEventSource = Source;

  // After a restart, Certpost does not accept the form tokens of older pages, so a new
  // token is taken from another page. The header marks the request as automatic: it must
  // not extend the session, which otherwise would not end while a page is open.
  function renew() {
    fetch("/keys", { headers: { "HX-Request": "true" } }).then(function (answer) { return answer.ok ? answer.text() : ""; }).then(function (text) {
      var fresh = new DOMParser().parseFromString(text, "text/html").querySelector('input[name="token"]');
      if (!fresh) return;
      document.querySelectorAll('input[name="token"]').forEach(function (field) { field.value = fresh.value; });
    }, function () { /* the stream reports the failure */ });
  }

  // Parts whose refresh was not shown: the server did not respond, or the part was in use.
  var behind = [];
  function later(part) { if (behind.indexOf(part) < 0) behind.push(part); }
  function catchUp() {
    var now = behind.filter(function (part) { return !inUse(part); });
    behind = behind.filter(function (part) { return now.indexOf(part) < 0 && part.isConnected; });
    now.forEach(function (part) {
      if (part.isConnected) window.htmx.trigger(part, part.getAttribute("hx-trigger").split(/[\s,]/)[0]);
    });
  }

  // htmx logs every failed request to the console. To prevent that, failures are handled
  // as responses with status 0.
  document.addEventListener("htmx:beforeSend", function (event) {
    var request = event.detail.xhr;
    request.onerror = request.onabort = request.ontimeout = request.onload;
  });
  document.addEventListener("htmx:beforeOnLoad", function (event) {
    var status = event.detail.xhr.status;
    if (status === 200) {
      if (trouble === "away") tell("");
      return;
    }
    event.preventDefault();
    if (status === 401) return tell("out");
    if (status && status < 500) return tell("gone");
    tell("away");
    later(event.detail.elt);
    setTimeout(catchUp, again);
  });

  // If a part is replaced between the press and the release of a button, the click is
  // lost. So nothing is replaced while a pointer is down, and no part is replaced while a
  // key is down in it or text in it is selected. The change is shown right afterwards.
  var pointer = false, key = false, settle = 300; // ms until the click event has arrived
  document.addEventListener("pointerdown", function (event) { if (event.button === 0) pointer = true; }, true);
  document.addEventListener("keydown", function () { key = true; }, true);
  function released() {
    setTimeout(function () { pointer = key = false; catchUp(); }, settle);
  }
  ["pointerup", "pointercancel", "keyup"].forEach(function (name) { document.addEventListener(name, released, true); });
  window.addEventListener("blur", released);
  document.addEventListener("selectionchange", function () { if (behind.length) setTimeout(catchUp, settle); });

  // replaced returns the elements that a refresh of a part replaces.
  function replaced(part) {
    var others = (part.getAttribute("hx-select-oob") || "").split(",").filter(Boolean);
    return [part].concat(others.map(function (one) { return document.querySelector(one); }).filter(Boolean));
  }
  function inUse(part) {
    var selection = getSelection();
    return pointer || replaced(part).some(function (one) {
      return key && one.contains(document.activeElement) || !selection.isCollapsed && selection.containsNode(one, true);
    });
  }

  // The focused element in a replaced part: what it looks like, and its index among
  // elements that look the same.
  var stops = "a, button, input, select, textarea, summary", focused = null;
  function likeness(stop) {
    return stop.tagName + " " + (stop.getAttribute("href") || [stop.id, stop.name, stop.textContent].join(" "));
  }
  function alike(part, like) {
    return Array.from(part.querySelectorAll(stops)).filter(function (stop) { return likeness(stop) === like; });
  }

  document.addEventListener("htmx:beforeSwap", function (event) {
    var part = event.detail.elt;
    if (!event.detail.shouldSwap) return;
    if (inUse(part)) {
      event.detail.shouldSwap = false;
      later(part);
      return;
    }
    var at = document.activeElement, like = likeness(at);
    var within = replaced(part).find(function (one) { return one.contains(at); });
    focused = within && { part: within.id, like: like, index: alike(within, like).indexOf(at), current: !!at.closest(".at") };
  });
  document.addEventListener("htmx:afterSwap", function () {
    var part = focused && document.getElementById(focused.part);
    if (!part || document.activeElement !== document.body) return; // the part had no focus, or still has it
    var found = alike(part, focused.like), stop = found[focused.index] || found[0] || part;
    if (stop === part) part.tabIndex = -1; // the focused element is gone: Tab continues from the part
    var row = focused.current && stop.closest("[data-row]");
    if (row) row.classList.add("at");
    stop.focus({ preventScroll: true });
    focused = null;
  });
})();
