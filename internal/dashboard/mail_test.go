package dashboard

import (
	"net/http"
	"strings"
	"testing"
)

// The page of a target leads to a preview of its mail. The HTML of the mail is in a sandbox,
// with a policy that lets it do nothing, wherever it is opened.
func TestMailPreview(t *testing.T) {
	t.Parallel()
	v := openOffice(t, officeConfig{}).visitor()
	page := v.opens("/targets/ops").follow("Preview the mail")
	if text := textOf(page.doc); !strings.Contains(text, "Certpost: certificate for www.example.com issued") || !strings.Contains(text, "www.example.com.pem (") ||
		!strings.Contains(text, "a sample certificate that nobody uses") || !strings.Contains(text, "openssl x509 -in www.example.com.pem") {
		t.Errorf("the page says %s", text)
	}
	if policy := page.header.Get("Content-Security-Policy"); !strings.Contains(policy, "frame-src 'self'") || !strings.Contains(policy, "script-src 'self'") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("the policy of the page is %s", policy)
	}
	frames := all(page.doc, "iframe")
	if len(frames) != 1 || attr(frames[0], "title") == "" || attr(frames[0], "srcdoc") != "" {
		t.Fatalf("the page has %d frames", len(frames))
	}
	sandboxed := false
	for _, a := range frames[0].Attr {
		sandboxed = sandboxed || a.Key == "sandbox" && a.Val == ""
	}
	if !sandboxed {
		t.Error("the frame is not in a sandbox")
	}
	body := v.do(http.MethodGet, attr(frames[0], "src"), "").is(http.StatusOK)
	if policy := body.header.Get("Content-Security-Policy"); policy != "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'self'; base-uri 'none'; sandbox" ||
		body.header.Get("X-Frame-Options") != "SAMEORIGIN" || body.header.Get("Cache-Control") != "no-store" || body.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("the headers of the body are %v", body.header)
	}
	if !strings.Contains(body.body, "<title>Certificate for www.example.com</title>") || len(all(body.doc, "script")) > 0 {
		t.Errorf("the body is %.300s", body.body)
	}
	if policy := v.opens("/targets/ops").header.Get("Content-Security-Policy"); strings.Contains(policy, "frame-src") {
		t.Errorf("the policy of another page is %s", policy)
	}
	v.do(http.MethodGet, "/targets/nobody/mail", "").is(http.StatusNotFound)
	v.do(http.MethodGet, "/targets/nobody/mail/body", "").is(http.StatusNotFound)
	if text := v.do(http.MethodGet, "/targets/ops/mail.json", "").is(http.StatusOK).body; !strings.Contains(text, `"subject": "Certpost: certificate for www.example.com issued`) {
		t.Errorf("the JSON is %.300s", text)
	}
}
