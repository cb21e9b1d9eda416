package devrelay

import (
	"bytes"
	"embed"
	"html/template"
	"mime"
	"net/http"
	"net/mail"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

//go:embed pages
var pages embed.FS

// maxListed is how many mails the list shows, the newest ones.
const maxListed = 200

// The pages show content from untrusted senders. They run no script and load nothing from
// other origins. A mail's HTML is a separate document in a sandbox, in which only its own
// styles and inline pictures work.
const (
	pagePolicy = "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
	htmlPolicy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
	filePolicy = "sandbox; default-src 'none'"
)

// inbox serves the mailbox as pages.
type inbox struct {
	relay *Relay
	pages *template.Template
}

// Handler serves the inbox pages. All links are relative, so it may be mounted
// below any path that ends in a slash.
func (r *Relay) Handler() http.Handler {
	in := &inbox{relay: r, pages: template.Must(template.New("").ParseFS(pages, "pages/*.html"))}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", in.list)
	mux.HandleFunc("GET /style.css", in.style)
	mux.HandleFunc("GET /mail/{id}/{$}", in.mail)
	mux.HandleFunc("GET /mail/{id}/html", in.html)
	mux.HandleFunc("GET /mail/{id}/mail.eml", in.raw)
	mux.HandleFunc("GET /mail/{id}/attachments/{number}", in.attachment)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", pagePolicy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, req)
	})
}

// listed is a mail as a row of the list.
type listed struct {
	ID                    int
	Received              time.Time
	Sender, To, Subject   string
	Secure, Authenticated bool
}

func (in *inbox) list(w http.ResponseWriter, _ *http.Request) {
	mails, count, _ := in.relay.mailbox.look()
	kept := len(mails)
	slices.Reverse(mails)
	rows := make([]listed, 0, min(kept, maxListed))
	for _, m := range mails[:min(kept, maxListed)] {
		subject := "(no subject)"
		sender := m.From
		if read, err := mail.ReadMessage(bytes.NewReader(m.Raw)); err == nil {
			if s := decodeWords(read.Header.Get("Subject")); s != "" {
				subject = s
			}
			if from := decodeWords(read.Header.Get("From")); from != "" {
				sender = from
			}
		}
		rows = append(rows, listed{m.ID, m.Received, tidy(sender), tidy(strings.Join(m.Recipients, ", ")), subject, m.TLS, m.User != ""})
	}
	in.show(w, "list.html", map[string]any{
		"Mails": rows, "Count": count, "Kept": kept, "Dropped": in.relay.mailbox.droppedForSize(), "Limit": in.relay.config.MaxMailboxBytes >> 20, "Shown": len(rows),
		"Submission": in.relay.Submission(), "SMTPS": in.relay.SMTPS(), "Plain": in.relay.Plain(),
	})
}

func (in *inbox) mail(w http.ResponseWriter, req *http.Request) {
	m, ok := in.find(w, req)
	if !ok {
		return
	}
	message, err := m.Message()
	problem := ""
	if err != nil {
		problem = tidy(err.Error())
	}
	type field struct{ Name, Value string }
	var all []field
	for name, values := range message.Header {
		for _, value := range values {
			all = append(all, field{tidy(name), tidy(value)})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	type file struct {
		Number, Size int
		Name, Type   string
	}
	var files []file
	for i, a := range message.Attachments {
		files = append(files, file{i, len(a.Data), a.Name, a.Type})
	}
	subject := message.Decoded("Subject")
	if subject == "" {
		subject = "(no subject)"
	}
	in.show(w, "mail.html", map[string]any{
		"Mail": m, "Subject": subject, "Sender": message.Decoded("From"), "To": message.Decoded("To"), "Cc": message.Decoded("Cc"),
		"EnvelopeFrom": tidy(m.From), "EnvelopeTo": tidy(strings.Join(m.Recipients, ", ")), "User": tidy(m.User),
		"Text": tidyLines(message.Text), "HTML": message.HTML != "", "Files": files, "Header": all, "Problem": problem, "Size": len(m.Raw),
	})
}

// html serves only the HTML part, for the sandboxed frame of the mail's page.
func (in *inbox) html(w http.ResponseWriter, req *http.Request) {
	m, ok := in.find(w, req)
	if !ok {
		return
	}
	message, _ := m.Message() // show what could be read; the mail's page names the problem
	w.Header().Set("Content-Security-Policy", htmlPolicy)
	// Browsers do not show a page with an opener policy in a sandboxed frame. The sandbox
	// gives the page its own origin, so it stays isolated.
	w.Header().Del("Cross-Origin-Opener-Policy")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(message.HTML))
}

func (in *inbox) raw(w http.ResponseWriter, req *http.Request) {
	if m, ok := in.find(w, req); ok {
		download(w, "mail-"+strconv.Itoa(m.ID)+".eml", m.Raw)
	}
}

func (in *inbox) attachment(w http.ResponseWriter, req *http.Request) {
	m, ok := in.find(w, req)
	if !ok {
		return
	}
	message, _ := m.Message()
	number, err := strconv.Atoi(req.PathValue("number"))
	if err != nil || number < 0 || number >= len(message.Attachments) {
		http.Error(w, "Attachment not found.", http.StatusNotFound)
		return
	}
	download(w, message.Attachments[number].Name, message.Attachments[number].Data)
}

// download sends bytes as a file that browsers do not try to display.
func download(w http.ResponseWriter, name string, data []byte) {
	header := w.Header()
	header.Set("Content-Security-Policy", filePolicy)
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	header.Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
}

func (in *inbox) style(w http.ResponseWriter, _ *http.Request) {
	css, err := pages.ReadFile("pages/style.css")
	if err != nil {
		http.Error(w, "The style sheet was not found.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = w.Write(css)
}

func (in *inbox) find(w http.ResponseWriter, req *http.Request) (Mail, bool) {
	id, err := strconv.Atoi(req.PathValue("id"))
	if err == nil {
		for _, m := range in.relay.Mails() {
			if m.ID == id {
				return m, true
			}
		}
	}
	http.Error(w, "Mail not found. The relay keeps only the newest mails, and a restart removes them all.", http.StatusNotFound)
	return Mail{}, false
}

func (in *inbox) show(w http.ResponseWriter, name string, data any) {
	var page bytes.Buffer
	if err := in.pages.ExecuteTemplate(&page, name, data); err != nil {
		http.Error(w, "The page could not be rendered.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page.Bytes())
}

// tidyLines is tidy for multi-line text.
func tidyLines(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = tidy(line)
	}
	return strings.Join(lines, "\n")
}
