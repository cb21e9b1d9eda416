package mailtext

import (
	"fmt"
	"strings"
	"time"
)

// sample is a model of one shape that mails have.
type sample struct {
	about string // "a certificate without a CN"
	model *Model
}

// Sample returns the ordinary model of docs/templates.md.
func Sample() *Model {
	return &Model{
		Product: "Certpost", Target: "ops-archive", Contact: "certs@example.com",
		Name: Name{ASCII: "www.example.com"}, Names: []Name{{ASCII: "www.example.com"}, {ASCII: "example.com"}},
		NotBefore: At(time.Date(2026, 3, 3, 12, 0, 0, 0, time.UTC)), NotAfter: At(time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)), DaysLeft: 89,
		Issuer: "CN=Example CA 1", Chain: []string{"Example CA 1"}, Key: "ECDSA, P-256",
		Serial: "4A:7B:E5", SHA256: strings.TrimSuffix(strings.Repeat("0F:", 32), ":"),
		Payload: "pem", Files: []File{{"www.example.com.pem", "1.2 kB", "certificate and chain"}}, Encryption: "none",
		HowToOpen: []Tip{{"OpenSSL", "openssl x509 -in www.example.com.pem -noout -text"}},
		EventID:   "01JD3ZX8W4", Source: "certbot://web1", Time: At(time.Date(2026, 3, 4, 11, 59, 0, 0, time.UTC)),
		Labels: map[string]string{"env": "prod", "owner": "web-team"},
	}
}

// samples have every shape that templates are tried with when they are parsed.
func samples() []sample {
	shape := func(about string, change func(*Model)) sample {
		m := Sample()
		change(m)
		return sample{about, m}
	}
	return []sample{
		shape("an ordinary certificate", func(*Model) {}),
		shape("a certificate without names, of an event without time, source and labels", func(m *Model) {
			m.Name, m.Names, m.Chain, m.Labels = Name{ASCII: "serial 4A7BE5"}, nil, nil, nil
			m.Source, m.Time, m.HowToOpen = "", Moment{}, nil
		}),
		shape("a certificate with 250 long names", func(m *Model) {
			m.Names = nil
			for i := range MaxNames {
				m.Names = append(m.Names, Name{ASCII: fmt.Sprintf("%s-%03d.example.com", strings.Repeat("host", 20), i)})
			}
			m.Name, m.MoreNames = m.Names[0], 250-MaxNames
		}),
		shape("a certificate with its private key, in clear", func(m *Model) {
			m.Payload, m.HasKey, m.KeyInClear = "pem_and_key", true, true
			m.Files = append(m.Files, File{"www.example.com.key.pem", "241 bytes", "private key"})
		}),
		shape("a key store with a passphrase", func(m *Model) {
			m.Payload, m.HasKey, m.NeedsPassphrase, m.PassphraseVault = "pkcs12", true, true, "secret/p12/ops#passphrase"
			m.Encryption = "smime"
		}),
		shape("a certificate with a chain of 31", func(m *Model) {
			m.Chain = nil
			for i := range 31 {
				m.Chain = append(m.Chain, fmt.Sprintf("Example CA %d", i+1))
			}
		}),
		shape("an internationalised name", func(m *Model) {
			m.Name = Name{"xn--bcher-kva.example", "bücher.example"}
			m.Names = []Name{m.Name}
		}),
		shape("an expired certificate, perhaps sent twice", func(m *Model) {
			m.DaysLeft, m.Expired, m.Duplicate = -3, true, true
			m.Warnings, m.Notes = []string{"The certificate expired on 2026-06-01 12:00 UTC."}, []string{`"Example CA 1" was given twice.`}
		}),
		shape("a certificate without an end", func(m *Model) {
			m.NotAfter, m.DaysLeft, m.Endless = At(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)), 2912380, true
		}),
	}
}
