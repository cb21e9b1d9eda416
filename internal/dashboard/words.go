package dashboard

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// maxShown bounds an untrusted text on a page, in bytes. The length of ids, names and
// replies is not limited elsewhere.
const maxShown = 300

// words are the functions that templates can call.
func words() template.FuncMap {
	return template.FuncMap{
		"sections": func() []place { return places }, "sectionOf": placeOf, "outside": outside, "plain": plain, "name": name, "block": block,
		"count": count, "plural": plural, "time": clock, "exact": exact, "day": day, "ago": ago, "span": span, "pace": pace,
		"args": args, "query": query, "spark": spark, "hoursBefore": func(i int) int { return 23 - i }, "certainty": certaintyMark, "outlook": outlookMark, "status": statusMark, "run": runMark, "result": resultMark, "state": stateMark, "sum": func(a, b int) int { return a + b },
		"join": strings.Join, "reply": replyText, "standstill": desk.StandstillWords, "breaker": desk.BreakerWords, "lane": desk.StatusWords, "onHost": verdict.OnHost, "hex": grouped, "list": func(items ...any) []any { return items },
	}
}

// outside shows an untrusted text: cleaned, cut to maxShown, and isolated, so that its
// writing direction does not affect the text around it.
func outside(text any) template.HTML {
	return isolated(plain(text))
}

// plain is outside for places where no element is allowed: options and titles.
func plain(text any) string { return legible.Clean(fmt.Sprint(text), maxShown) }

// name shows a DNS name, or a text in its place. An internationalised name is shown in
// A-labels, followed by its Unicode form and a note if its scripts are foreign or mixed.
func name(text any) template.HTML {
	shown := legible.Name(fmt.Sprint(text), maxShown)
	if shown.Note == "" {
		return isolated(shown.Text)
	}
	return isolated(shown.Text) + ` <span class="script">` + isolated(shown.Note) + `</span>`
}

func isolated(clean string) template.HTML {
	return template.HTML("<bdi>" + template.HTMLEscapeString(clean) + "</bdi>")
}

// block is a text of several lines for a <pre>: line ends and tabs stay, other hidden
// characters are replaced by U+FFFD.
func block(text []byte) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && legible.Hidden(r) {
			return '\ufffd'
		}
		return r
	}, strings.ReplaceAll(string(text), "\r\n", "\n"))
}

// count writes a number with thousands separators: 100,000.
func count(number any) string {
	digits := fmt.Sprint(number)
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "−", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// plural is a number with its noun: "1 letter", "2,000 letters". An irregular plural is
// given as the second noun.
func plural(number any, noun ...string) string {
	text := count(number)
	switch {
	case text == "1":
		return "1 " + noun[0]
	case len(noun) > 1:
		return text + " " + noun[1]
	}
	return text + " " + noun[0] + "s"
}

// clock shows a time: only the time of day if it is today, otherwise with the date. The
// element's title has the full time, and its datetime attribute has it in RFC 3339.
func clock(t, now time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">never</span>`
	}
	t = t.UTC()
	text := t.Format("2 Jan 2006 15:04")
	switch {
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		text = t.Format("15:04:05")
	case t.Year() == now.Year():
		text = t.Format("2 Jan 15:04")
	}
	return element("clock", t, text, now)
}

// exact shows a time with date and seconds, for records that are evidence, also when
// printed.
func exact(t, now time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">never</span>`
	}
	t = t.UTC()
	return element("exact", t, t.Format("2 Jan 2006 15:04:05"), now)
}

// day shows a date, for times that matter only to the day.
func day(t, now time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">unknown</span>`
	}
	t = t.UTC()
	return element("day", t, t.Format("2 Jan 2006"), now)
}

// element is a <time> in UTC; its title has the full time and its distance from now. A script
// shows it in the time zone of the browser, in the same form: "clock", "exact" or "day". The
// text is not escaped, so it must be trusted.
func element(form string, t time.Time, text string, now time.Time) template.HTML {
	return template.HTML(`<time datetime="` + t.Format(time.RFC3339) + `" data-form="` + form + `" title="` + t.Format("2006-01-02 15:04:05 UTC") + ", " + ago(t, now) + `">` + text + `</time>`)
}

// ago is the distance of a time from now: "3 min ago", "in 12 days".
func ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	switch d := now.Sub(t); {
	case legible.Endless(t):
		return "no expiry date"
	case legible.Days(now, t) >= 2:
		return "in " + plural(legible.Days(now, t), "day")
	case legible.Days(t, now) >= 2:
		return plural(legible.Days(t, now), "day") + " ago"
	case d < -time.Second:
		return "in " + span(-d)
	case d < time.Second:
		return "just now"
	default:
		return span(d) + " ago"
	}
}

// pace is the rate per minute, or per second, of mails sent in the last five minutes.
func pace(lately int) string {
	switch perMinute := float64(lately) / 5; {
	case lately == 0:
		return "0/min"
	case perMinute < 10:
		return strconv.FormatFloat(perMinute, 'f', 1, 64) + "/min"
	case perMinute < 600:
		return strconv.FormatFloat(perMinute, 'f', 0, 64) + "/min"
	default:
		return strconv.FormatFloat(perMinute/60, 'f', 0, 64) + "/s"
	}
}

// span is a duration in its largest unit.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "under 1 ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	}
	return plural(int(d.Hours()/24), "day")
}

// grouped puts a space after every four digits of a long hexadecimal number, so that
// people can compare it.
func grouped(hex string) string {
	hex = legible.Clean(hex, 128)
	var b strings.Builder
	for i, r := range hex {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// query is an address with a query that is already encoded. Written after a question
// mark in a template, the query would be encoded again and become one key without a
// value.
func query(path, encoded string) string {
	if encoded == "" {
		return path
	}
	return path + "?" + encoded
}

// args builds the data of a template part that needs several values, from alternating
// names and values.
func args(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("args: odd number of names and values: %d", len(pairs))
	}
	data := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		data[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return data, nil
}
