package dashboard

import (
	"fmt"
	"html/template"
	"strings"

	"github.com/certpost/certpost/internal/desk"
	"github.com/certpost/certpost/internal/verdict"
)

// mark is a word with a shape and a colour; the word alone carries the meaning.
func mark(kind, word string) template.HTML {
	return template.HTML(`<span class="mark ` + kind + `">` + word + `</span>`)
}

// certaintyMark says whether the mail was sent.
func certaintyMark(c verdict.Certainty) template.HTML {
	switch c {
	case verdict.MaybeSent:
		return mark("half", desk.SentWord(c))
	case verdict.Accepted:
		return mark("full", desk.SentWord(c))
	}
	return mark("empty", desk.SentWord(c))
}

// outlookMark says what would become of a replay.
func outlookMark(o verdict.Outlook) template.HTML {
	switch o {
	case verdict.WouldDeliver:
		return mark("good", "would be delivered")
	case verdict.WouldRepeat:
		return mark("full", "delivered already")
	case verdict.NotKnown:
		return mark("half", "not known")
	}
	return mark("bad", "would fail")
}

// statusMark says how a letter left the list.
func statusMark(f desk.Status) template.HTML {
	switch f {
	case desk.Open:
		return mark("open", "open")
	case desk.Replayed, desk.Replaced:
		return mark("full", string(f))
	case desk.Discarded, desk.Expired, desk.Removed:
		return mark("gone", string(f))
	}
	return mark("gone", "unknown")
}

// runMark is the mark for the state of a replay.
func runMark(s desk.RunState) template.HTML {
	switch s {
	case desk.RunRunning:
		return mark("busy", "running")
	case desk.RunWatching:
		return mark("busy", "waiting for its canary")
	case desk.RunPaused:
		return mark("held", "paused")
	case desk.RunStopped:
		return mark("bad", "stopped")
	case desk.RunDone:
		return mark("good", "done")
	}
	return mark("gone", "cancelled")
}

// resultMark is the mark for the result of one letter of a replay.
func resultMark(result string) template.HTML {
	switch result {
	case "delivered":
		return mark("good", "delivered")
	case "dead again", "failed":
		return mark("bad", template.HTMLEscapeString(result))
	case "published":
		return mark("busy", "published")
	}
	return template.HTML(`<span class="mark gone">`) + outside(result) + `</span>`
}

// spark draws the last 24 hours as bars of one hour each, oldest first. Its label says
// the same for screen readers.
func spark(hours [24]int, what string) template.HTML {
	const step, height = 4, 20
	most, sum, last := 1, 0, 0
	for i, n := range hours {
		most, sum = max(most, n), sum+n
		if n > 0 {
			last = 23 - i
		}
	}
	label := "no " + what + " in the last 24 hours"
	if sum > 0 {
		label = fmt.Sprintf("%s %s in the last 24 hours, at most %s in one hour, the last one %s", count(sum), what, count(most), hoursAgo(last))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="spark" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`, 24*step, height, 24*step, height, template.HTMLEscapeString(label))
	for i, n := range hours {
		h := 1
		kind := "nothing"
		if n > 0 {
			h, kind = max(3, n*height/most), "bar"
		}
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d"/>`, kind, i*step, height-h, step-1, h)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

func hoursAgo(hours int) string {
	if hours == 0 {
		return "within the last hour"
	}
	return plural(hours, "hour") + " ago"
}
