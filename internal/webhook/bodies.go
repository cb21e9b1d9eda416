package webhook

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// Encode is json.Marshal without the escapes that are for HTML.
func Encode(v any) ([]byte, error) {
	var w bytes.Buffer
	e := json.NewEncoder(&w)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(w.Bytes(), []byte("\n")), err
}

var (
	slackText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	teamsText = strings.NewReplacer("_", `\_`, "*", `\*`, "[", `\[`, "]", `\]`)
)

// SlackText escapes what begins a link or a mention in Slack's mrkdwn.
func SlackText(text string) string { return slackText.Replace(text) }

// TeamsText escapes Markdown: texts have codes such as SMTP_PERMANENT.
func TeamsText(text string) string { return teamsText.Replace(text) }

// TeamsCard is a message of one Adaptive Card, with a link if there is one.
func TeamsCard(body []map[string]any, title, link string) any {
	type object = map[string]any
	card := object{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body}
	if link != "" {
		card["actions"] = []object{{"type": "Action.OpenUrl", "title": title, "url": link}}
	}
	return object{"type": "message", "attachments": []object{{"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": nil, "content": card}}}
}

// Shorten cuts a text to a number of characters.
func Shorten(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}
