package devrelay

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"mime"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// hostile is a mail in which every field tries to break out of the page.
var hostile = strings.ReplaceAll(`From: "<img src=x onerror=alert(1)>" <evil@example.com>
To: "</title><script>alert(2)</script>" <ops@example.com>
Subject: =?utf-8?q?=3Cscript=3Ealert=283=29=3C/script=3E=E2=80=AEgnp.exe?=
X-Evil: <svg onload=alert(4)>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=outer

--outer
Content-Type: multipart/alternative; boundary=inner

--inner
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

plain =3Cscript=3Ealert(5)=3C/script=3E gr=C3=BC=C3=9Fe

--inner
Content-Type: text/html; charset=utf-8

<p>rich</p><script>parent.alert(6)</script><img src="https://tracker.test/x">
--inner--

--outer
Content-Type: application/x-pem-file
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="../../etc/<b>pässword</b>\"; x=y.pem"

`+base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE-----\n"))+`
--outer
Content-Type: text/html
Content-Disposition: attachment

<script>alert(7)</script>
--outer--
`, "\n", "\r\n")

func inboxWith(t *testing.T, mails ...string) (*Relay, func(path string) *http.Response) {
	t.Helper()
	r := start(t, Config{})
	c := client(t, r, r.Submission())
	for _, content := range mails {
		if err := send(c, "evil@example.com", content, "ops@example.com"); err != nil {
			t.Fatal(err)
		}
	}
	handler := http.StripPrefix("/inbox", r.Handler())
	return r, func(path string) *http.Response {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/inbox"+path, nil))
		return recorder.Result()
	}
}

func body(t *testing.T, response *http.Response) string {
	t.Helper()
	defer func() { _ = response.Body.Close() }()
	var b bytes.Buffer
	if _, err := b.ReadFrom(response.Body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTheInboxShowsMails(t *testing.T) {
	t.Parallel()
	_, get := inboxWith(t, someMail, strings.Replace(someMail, "Subject: hello", "Subject: =?utf-8?q?zw=C3=B6lf?=", 1))
	list := body(t, get("/"))
	for _, want := range []string{`href="mail/1/"`, `href="mail/2/"`, "hello", "zwölf", "certs@example.com", "ops@example.com", "2 mails", "TLS"} {
		if !strings.Contains(list, want) {
			t.Errorf("the list lacks %q", want)
		}
	}
	if strings.Index(list, "zwölf") > strings.Index(list, "hello") {
		t.Error("the newest mail is not on top")
	}
	page := body(t, get("/mail/1/"))
	for _, want := range []string{"hello", ".dotted", "last line", `href="mail.eml"`, "evil@example.com"} {
		if !strings.Contains(page, want) {
			t.Errorf("the mail's page lacks %q", want)
		}
	}
	raw := get("/mail/1/mail.eml")
	if got := body(t, raw); got != someMail || !strings.Contains(raw.Header.Get("Content-Disposition"), "mail-1.eml") {
		t.Errorf("downloaded %q as %q", got, raw.Header.Get("Content-Disposition"))
	}
	_, empty := inboxWith(t)
	if !strings.Contains(body(t, empty("/")), "No mail yet") {
		t.Error("an empty inbox says nothing")
	}
}

func TestHostileMailsStayInTheirBox(t *testing.T) {
	t.Parallel()
	_, get := inboxWith(t, hostile)
	for _, path := range []string{"/", "/mail/1/"} {
		response := get(path)
		page := body(t, response)
		for _, live := range []string{"<script", "<img", "<svg", "<b>", "\u202e"} {
			if strings.Contains(page, live) {
				t.Errorf("%s holds a live %q:\n%s", path, live, page)
			}
		}
		policy := response.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "script") {
			t.Errorf("%s has the policy %q", path, policy)
		}
	}
	page := body(t, get("/mail/1/"))
	for _, want := range []string{`<iframe src="html" sandbox `, "&lt;script&gt;alert(5)&lt;/script&gt; grüße", `href="attachments/0"`, `href="attachments/1"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the mail's page lacks %q", want)
		}
	}

	html := get("/mail/1/html")
	if text := body(t, html); !strings.Contains(text, "<p>rich</p>") {
		t.Errorf("the HTML part is %q", text)
	}
	policy := html.Header.Get("Content-Security-Policy")
	if opener := html.Header.Get("Cross-Origin-Opener-Policy"); opener != "" {
		t.Errorf("the frame has an opener policy (%s): browsers would leave it blank", opener)
	}
	if !strings.HasPrefix(policy, "sandbox; default-src 'none';") || strings.Contains(policy, "allow-") || strings.Contains(policy, "script-src") {
		t.Errorf("the HTML part has the policy %q", policy)
	}

	for path, content := range map[string]string{"/mail/1/attachments/0": "-----BEGIN CERTIFICATE-----\n", "/mail/1/attachments/1": "<script>alert(7)</script>"} {
		file := get(path)
		if got := body(t, file); got != content {
			t.Errorf("%s holds %q", path, got)
		}
		disposition, parameters, err := mime.ParseMediaType(file.Header.Get("Content-Disposition"))
		if err != nil || disposition != "attachment" || strings.ContainsAny(parameters["filename"], "/\\\r\n") || parameters["filename"] == "" {
			t.Errorf("%s is sent as %q (%v)", path, file.Header.Get("Content-Disposition"), err)
		}
		if file.Header.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(file.Header.Get("Content-Security-Policy"), "sandbox;") {
			t.Errorf("%s may be shown: %v", path, file.Header)
		}
	}
	for _, path := range []string{"/", "/style.css", "/mail/1/", "/mail/1/html", "/mail/1/mail.eml", "/mail/1/attachments/0", "/nowhere"} {
		header := get(path).Header
		if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Referrer-Policy") != "no-referrer" || header.Get("Content-Security-Policy") == "" {
			t.Errorf("%s lacks its security headers: %v", path, header)
		}
	}
}

func TestPagesThatAreNotThere(t *testing.T) {
	t.Parallel()
	r, get := inboxWith(t, someMail)
	for _, path := range []string{"/mail/2/", "/mail/x/", "/mail/1/attachments/0", "/mail/1/attachments/-1", "/mail/1/attachments/x", "/mail/0/mail.eml", "/style.css/x", "/pages/list.html"} {
		if got := get(path).StatusCode; got != http.StatusNotFound {
			t.Errorf("GET %s gave %d", path, got)
		}
	}
	recorder := httptest.NewRecorder()
	r.Handler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
	if recorder.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST / gave %d", recorder.Code)
	}
}

func TestMessagesThatAreNoMessages(t *testing.T) {
	t.Parallel()
	nested := func(depth int) string {
		var b strings.Builder
		for i := range depth {
			fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		}
		return b.String() + "Content-Type: text/plain\r\n\r\ndeep\r\n"
	}
	many := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\nContent-Type: image/png\r\n\r\nx\r\n", 10_000) + "--b--\r\n"
	for name, raw := range map[string]string{
		"no header":   "\x00\x01 this is no mail",
		"too deep":    nested(1000),
		"many parts":  many,
		"bad base64":  "Content-Transfer-Encoding: base64\r\n\r\n!!!!\r\n",
		"no boundary": "Content-Type: multipart/mixed\r\n\r\n--\r\n",
		"cut off":     "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nhalf",
	} {
		message, err := Mail{ID: 1, Raw: []byte(raw)}.Message()
		if err == nil || message == nil || len(message.Attachments) > maxParts {
			t.Errorf("%s: %+v, %v", name, message, err)
		}
		_, get := inboxWith(t, raw)
		if response := get("/mail/1/"); response.StatusCode != http.StatusOK || !strings.Contains(body(t, response), "malformed") {
			t.Errorf("%s: the page does not say that the mail is malformed", name)
		}
		if got := get("/").StatusCode; got != http.StatusOK {
			t.Errorf("%s: the list gave %d", name, got)
		}
	}
}

func TestMessageParts(t *testing.T) {
	t.Parallel()
	message, err := Mail{Raw: []byte(hostile)}.Message()
	if err != nil {
		t.Fatal(err)
	}
	if message.Text != "plain <script>alert(5)</script> grüße\r\n" || len(message.Attachments) != 2 {
		t.Errorf("text %q, %d attachments", message.Text, len(message.Attachments))
	}
	if got := message.Decoded("Subject"); got != "<script>alert(3)</script>\ufffdgnp.exe" {
		t.Errorf("subject %q", got)
	}
	if a := message.Attachments[1]; a.Name != "attachment-2" || a.Type != "text/html" {
		t.Errorf("the nameless attachment is %+v", a)
	}
	latin, err := Mail{Raw: []byte("Content-Type: text/plain; charset=ISO-8859-1\r\n\r\ngr\xfc\xdfe")}.Message()
	if err != nil || latin.Text != "grüße" {
		t.Errorf("%q, %v", latin.Text, err)
	}
}
