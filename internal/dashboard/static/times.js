// Shows times in the time zone of the browser. The server writes them in UTC, which stays in
// their titles and on paper, and is shown if the settings say so.
(function () {
  "use strict";
  var zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (document.body.dataset.times === "utc" || !zone || zone === "UTC") return;

  function formatter(options) { return new Intl.DateTimeFormat("en-GB", Object.assign({ timeZone: zone, hourCycle: "h23" }, options)); }
  var day = { year: "numeric", month: "short", day: "numeric" };
  var parts = formatter(Object.assign({ hour: "2-digit", minute: "2-digit", second: "2-digit" }, day));
  var days = formatter(day);
  var today = days.format(new Date()), year = new Date().getFullYear();

  // local writes a moment as the server's functions of the same names do.
  function local(form, moment) {
    var p = {};
    parts.formatToParts(moment).forEach(function (part) { p[part.type] = part.value; });
    var date = p.day + " " + p.month.slice(0, 3), minutes = p.hour + ":" + p.minute;
    if (form === "day") return date + " " + p.year;
    if (form === "exact") return date + " " + p.year + " " + minutes + ":" + p.second;
    if (days.format(moment) === today) return minutes + ":" + p.second;
    return Number(p.year) === year ? date + " " + minutes : date + " " + p.year + " " + minutes;
  }

  function show(root) {
    root.querySelectorAll("time[data-form]").forEach(function (time) {
      if (time.dataset.utc) return;
      time.dataset.utc = time.textContent;
      time.dataset.local = time.textContent = local(time.dataset.form, new Date(time.dateTime));
    });
  }
  function all(name) {
    document.querySelectorAll("time[data-utc]").forEach(function (time) { time.textContent = time.dataset[name]; });
    tell(name === "utc" ? "UTC" : zone + ", UTC in their titles");
  }
  function tell(what) {
    var place = document.getElementById("zone");
    if (place) place.textContent = "All times are " + what + ".";
  }

  show(document);
  all("local");
  document.addEventListener("htmx:load", function (event) { show(event.target.parentElement || document); });
  window.addEventListener("beforeprint", function () { all("utc"); });
  window.addEventListener("afterprint", function () { all("local"); });
})();
