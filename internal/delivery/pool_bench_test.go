package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/smtp"
	gomail "github.com/wneessen/go-mail"
)

// BenchmarkRoundTrips sends mails over a link with a delay of 10 ms in each direction: on
// a new connection for each, and on a kept one; with PIPELINING and without.
func BenchmarkRoundTrips(b *testing.B) {
	ca := lab.NewTLSAuthority(b, "Test CA")
	everything := []string{"PIPELINING", "8BITMIME", "SIZE 10485760", "STARTTLS", "AUTH PLAIN"}
	for _, mode := range []string{smtp.TLSPlaintext, smtp.TLSStartTLS} {
		for _, kept := range []bool{false, true} {
			for _, pipelining := range []bool{false, true} {
				for _, recipients := range []int{1, 10} {
					name := fmt.Sprintf("%s/kept=%v/pipelining=%v/recipients=%d", mode, kept, pipelining, recipients)
					b.Run(name, func(b *testing.B) {
						offers := everything
						if !pipelining {
							offers = everything[1:]
						}
						server := lab.StartRelay(b, lab.RelayScript{Offers: slices.Clone(offers), Cert: ca.Issue(b, nil)})
						link := lab.NewLink(b, server.Listener.Addr().String(), 10*time.Millisecond)
						limits := RelayLimits{MaxMessagesPerConnection: 1}
						if kept {
							limits.MaxMessagesPerConnection = 100_000
						}
						o := newFixture(b, link.Address, limits, func(target *Target) {
							target.TLSMode = mode
							if mode == smtp.TLSStartTLS {
								target.CAFile = ca.File(b)
							}
							target.To = nil
							for n := range recipients {
								target.To = append(target.To, fmt.Sprintf("r%d@example.com", n))
							}
						})
						if kept {
							o.mustDeliver()
						}
						before, sent := link.Turns.Load(), time.Duration(0)
						for b.Loop() {
							receipt, failure := o.deliver(context.Background())
							if failure != nil {
								b.Fatal(failure)
							}
							sent += receipt.Timings.Send
						}
						b.ReportMetric(float64(link.Turns.Load()-before)/float64(b.N), "roundtrips/op")
						b.ReportMetric(sent.Seconds()*1000/float64(b.N), "ms-send/op")
					})
				}
			}
		}
	}
}

// BenchmarkGoMail uses the same link with go-mail's own client and its defaults, on one
// kept connection.
func BenchmarkGoMail(b *testing.B) {
	server := lab.StartRelay(b, lab.RelayScript{})
	link := lab.NewLink(b, server.Listener.Addr().String(), 10*time.Millisecond)
	host, port := lab.HostPort(b, link.Address)
	client, err := gomail.NewClient(host, gomail.WithPort(port), gomail.WithTLSPolicy(gomail.NoTLS), gomail.WithHELO("test.example"))
	if err != nil {
		b.Fatal(err)
	}
	if err := client.DialWithContext(b.Context()); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	msg := gomail.NewMsg()
	if err := errors.Join(msg.From("certs@example.com"), msg.To("r0@example.com")); err != nil {
		b.Fatal(err)
	}
	msg.Subject("a mail")
	msg.SetBodyString(gomail.TypeTextPlain, "a mail\n")
	before := link.Turns.Load()
	for b.Loop() {
		if err := client.Send(msg); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(link.Turns.Load()-before)/float64(b.N), "roundtrips/op")
}

// BenchmarkDeliver measures what a mail costs this process and the relay on one machine.
func BenchmarkDeliver(b *testing.B) {
	ca := lab.NewTLSAuthority(b, "Test CA")
	for _, mode := range []string{smtp.TLSPlaintext, smtp.TLSStartTLS} {
		for _, kept := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/kept=%v", mode, kept), func(b *testing.B) {
				server := lab.StartRelay(b, lab.RelayScript{Cert: ca.Issue(b, nil)})
				limits := RelayLimits{MaxMessagesPerConnection: 1}
				if kept {
					limits.MaxMessagesPerConnection = 100_000
				}
				o := newFixture(b, server.Address(), limits, func(target *Target) {
					target.TLSMode = mode
					if mode == smtp.TLSStartTLS {
						target.CAFile = ca.File(b)
					}
				})
				b.ReportAllocs()
				for b.Loop() {
					o.mustDeliver()
				}
			})
		}
	}
}
