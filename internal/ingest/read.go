package ingest

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/certpost/certpost/internal/events"
)

// read returns the events of a request; none if it tells of something other than an issued
// certificate.
func (s *Sender) read(r *http.Request, media string, body []byte) ([]*events.Event, *refused) {
	switch s.Format {
	case EJBCA:
		return s.readEJBCA(body)
	case StepCA:
		return s.readStepCA(body)
	}
	if media == batchType {
		return readBatch(body)
	}
	header := http.Header{}
	for name, values := range r.Header {
		if lower := strings.ToLower(name); lower == "content-type" || strings.HasPrefix(lower, "ce-") {
			header[name] = values
		}
	}
	ev, err := events.Decode(header, body)
	if err != nil {
		return nil, invalid(err)
	}
	return []*events.Event{ev}, nil
}

// invalid is the answer to what is no event. The reason quotes nothing, and nothing was
// published.
func invalid(err error) *refused {
	return refuse(http.StatusBadRequest, "%s", events.BeforePublication(err))
}

// readBatch reads a batch of CloudEvents in structured JSON.
func readBatch(body []byte) ([]*events.Event, *refused) {
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, refuse(http.StatusBadRequest, "a batch is a JSON list of CloudEvents")
	}
	if len(raw) == 0 || len(raw) > MaxBatch {
		return nil, refuse(http.StatusBadRequest, "a batch has 1 to %d events", MaxBatch)
	}
	var all []*events.Event
	for i, one := range raw {
		ev, err := events.Decode(map[string][]string{"Content-Type": {events.ContentType}}, one)
		if err != nil {
			return nil, at(i, max(len(raw), 2), invalid(err))
		}
		all = append(all, ev)
	}
	return all, nil
}

// readEJBCA reads what EJBCA's Cert Safe publisher sends: the leaf alone, at issuance and at
// each change of its status.
func (s *Sender) readEJBCA(body []byte) ([]*events.Event, *refused) {
	var sent struct {
		Status string `json:"status"`
		PEM    string `json:"pem"`
	}
	if err := json.Unmarshal(body, &sent); err != nil || sent.Status == "" {
		return nil, refuse(http.StatusBadRequest, "want what EJBCA's Cert Safe publisher sends: status and pem")
	}
	if !strings.EqualFold(sent.Status, "active") {
		return nil, nil
	}
	return s.issued("ejbca", []byte(sent.PEM))
}

// readStepCA reads the body of a webhook of step-ca. The kind NOTIFYING has the certificate once it is
// signed, or why it was not signed. Webhooks of other kinds come before that, and their answer decides
// whether it is signed: they are refused.
func (s *Sender) readStepCA(body []byte) ([]*events.Event, *refused) {
	var sent struct {
		Failure     string `json:"scepErrorDescription"`
		Certificate *struct {
			Raw []byte `json:"raw"` // DER
		} `json:"x509Certificate"`
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return nil, refuse(http.StatusBadRequest, "want the body of a webhook of step-ca")
	}
	if sent.Certificate == nil && sent.Failure != "" {
		return nil, nil
	}
	if sent.Certificate == nil || len(sent.Certificate.Raw) == 0 {
		return nil, refuse(http.StatusBadRequest, "x509Certificate.raw is missing: this webhook is not about an issued certificate; only webhooks of the kind NOTIFYING are")
	}
	return s.issued("step-ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sent.Certificate.Raw}))
}

// issued makes the event for a certificate; one certificate has one id.
func (s *Sender) issued(scheme string, text []byte) ([]*events.Event, *refused) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, invalid(errors.New("it has no certificate"))
	}
	ev, err := events.Issued{Chain: text, Source: (&url.URL{Scheme: scheme, Host: s.Name}).String()}.Event()
	if err != nil {
		return nil, invalid(err)
	}
	return []*events.Event{ev}, nil
}
