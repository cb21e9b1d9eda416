// Pages keep themselves up to date: a stream of events says what has changed, htmx
// fetches the parts that show it, and what is here sees to it that nobody is disturbed
// by that and nobody is left with an old page unawares.
(function () {
  "use strict";
  if (!window.htmx) return;

  // What may be wrong with a page that is open, in the words for whoever reads it.
  var troubles = {
    away: "Certpost does not answer as it should. This page shows what was known before, and catches up by itself.",
    many: "This page is not kept up to date: too many are open already. Close some, or load it again now and then.",
    gone: "Something that this page shows is not there any more. Load it again.",
    out: "You are signed out, and this page is not kept up to date any more. "
  };
  var trouble = "", leaving = false;
  window.addEventListener("pagehide", function () { leaving = true; }); // which ends what is under way

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

  // Over HTTP/1.1 a browser opens six connections to a host, and a stream holds one:
  // a page that nobody looks at lets go of its own, and catches up when it is looked at
  // again. htmx asks for its source here.
  var names = ["letters", "runs", "lanes", "audit"];
  var pace = 2000;  // at most one refresh for each kind of change in so many ms
  var again = 5000; // after which a stream that broke is tried again, in ms

  function Source(url) {
    var self = new EventTarget(), inner = null, timer = 0, opened = false, passed = {};
    self.readyState = 0;
    self.close = function () { self.readyState = 2; clearTimeout(timer); if (inner) inner.close(); };

    function pass(name, data) {
      var next = passed[name] || (passed[name] = { at: 0 });
      if (next.timer) return; // it is told soon
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
      if (self.readyState === 2 || document.hidden) return;
      inner = new EventSource(url); // it begins with what has changed since the page was read
      names.forEach(function (name) {
        inner.addEventListener(name, function (event) { pass(name, event.data); });
      });
      inner.onopen = function () {
        clearTimeout(timer);
        self.readyState = 1;
        tell("");
        if (opened) renew();
        opened = true;
      };
      inner.onerror = function () {
        clearTimeout(timer);
        timer = setTimeout(why, this.readyState === 2 ? 0 : again); // until then it tries by itself
      };
    }
    // An event source does not say why it has none.
    function why() {
      var asked = new AbortController();
      if (inner) inner.close();
      fetch(url, { headers: { Accept: "text/event-stream" }, signal: asked.signal }).then(function (answer) {
        asked.abort();
        switch (answer.status) {
          case 200: return open();
          case 401: return tell("out"); // it is tried again when the page is looked at again
          case 429: tell("many"); timer = setTimeout(open, 12 * again); return;
          default: throw answer.status;
        }
      }).catch(function () {
        tell("away");
        timer = setTimeout(why, again);
      });
    }
    document.addEventListener("visibilitychange", function () { if (self.readyState !== 2) open(); });
    open();
    return self;
  }
  window.htmx.createEventSource = Source;

  // A program that was started anew does not know the tokens of forms that were read
  // before. Any page has one that it does. Nobody asked for it, so it is no use of the
  // session: that would not end while a page is open.
  function renew() {
    fetch("/keys", { headers: { "HX-Request": "true" } }).then(function (answer) { return answer.ok ? answer.text() : ""; }).then(function (text) {
      var fresh = new DOMParser().parseFromString(text, "text/html").querySelector('input[name="token"]');
      if (!fresh) return;
      document.querySelectorAll('input[name="token"]').forEach(function (field) { field.value = fresh.value; });
    }, function () { /* the stream notices too */ });
  }

  // What was asked for and not shown: the server was away, or the part was in use.
  var behind = [];
  function later(part) { if (behind.indexOf(part) < 0) behind.push(part); }
  function catchUp() {
    var now = behind.filter(function (part) { return !inUse(part); });
    behind = behind.filter(function (part) { return now.indexOf(part) < 0 && part.isConnected; });
    now.forEach(function (part) {
      if (part.isConnected) window.htmx.trigger(part, part.getAttribute("hx-trigger").split(/[\s,]/)[0]);
    });
  }

  // htmx writes each request that fails on the console. Here none does: it is answered,
  // if only by nobody (status 0).
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

  // A part that is replaced between the press of a button and its release swallows the
  // click. So nothing is replaced while a pointer is down, nor a part in which a key is
  // or text is selected; what has changed is shown right after.
  var pointer = false, key = false, settle = 300; // ms, in which the click has come
  document.addEventListener("pointerdown", function (event) { if (event.button === 0) pointer = true; }, true);
  document.addEventListener("keydown", function () { key = true; }, true);
  function released() {
    setTimeout(function () { pointer = key = false; catchUp(); }, settle);
  }
  ["pointerup", "pointercancel", "keyup"].forEach(function (name) { document.addEventListener(name, released, true); });
  window.addEventListener("blur", released);
  document.addEventListener("selectionchange", function () { if (behind.length) setTimeout(catchUp, settle); });

  // replaced are the elements that a refresh of one replaces.
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

  // Where the focus was in what is replaced: on what, and on which of several alike.
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
    if (!part || document.activeElement !== document.body) return; // nothing in it had the focus, or it has it still
    var found = alike(part, focused.like), stop = found[focused.index] || found[0] || part;
    if (stop === part) part.tabIndex = -1; // what had it is gone: the next key goes on from here
    var row = focused.current && stop.closest("[data-row]");
    if (row) row.classList.add("at");
    stop.focus({ preventScroll: true });
    focused = null;
  });
})();
