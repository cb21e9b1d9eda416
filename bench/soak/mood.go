//go:build unix

package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/certpost/certpost/internal/backoff"
)

// act is what a relay does at a moment, with a chance: it gives a reply instead of the usual
// one, cuts the connection, says nothing more, or waits. At the moment "dot" the mail has been
// accepted before cut, hang and wait, but not before a reply.
type act struct {
	moment string
	chance float64
	reply  string
	cut    bool
	hang   bool
	wait   time.Duration
}

// mood is how a relay behaves for some seconds.
type mood struct {
	name string
	away bool // it does not listen
	acts []act
}

var friendly = mood{name: "friendly"}

// moods are chosen from at random. What makes dead letters is rare, so that most mails
// arrive some day.
var moods = []mood{
	friendly, friendly,
	{name: "away", away: true},
	{name: "busy", acts: at(0.15, "421 4.3.2 Service shutting down", "banner", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "dot", "RSET")},
	{name: "full", acts: at(0.5, "452 4.3.1 Insufficient system storage", "MAIL", "RCPT", "DATA", "dot")},
	{name: "at its daily limit", acts: at(0.4, "550 5.4.5 Daily user sending limit exceeded", "MAIL", "dot")},
	{name: "greylisting", acts: at(0.5, "450 4.7.1 Greylisted, try again later", "RCPT")},
	{name: "without some recipients", acts: append(at(0.08, "550 5.1.1 User unknown", "RCPT"), at(0.3, "451 4.2.1 Mailbox busy", "RCPT")...)},
	{name: "cutting", acts: cutting(0.12, "banner", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "content", "RSET")},
	{name: "cutting after the dot", acts: cutting(0.3, "dot")},
	{name: "slow", acts: waiting(0.5, 700*time.Millisecond, "banner", "EHLO", "MAIL", "RCPT", "DATA", "dot")},
	{name: "silent", acts: []act{{moment: "MAIL", chance: 0.03, hang: true}, {moment: "dot", chance: 0.05, hang: true}, {moment: "banner", chance: 0.05, hang: true}}},
	{name: "breaking TLS", acts: at(0.5, "454 4.7.0 TLS not available due to temporary reason\r\n", "tls")},
	{name: "another certificate", acts: at(0.08, "", "tls")},
	{name: "refusing", acts: append(at(0.06, "554 5.7.1 Message rejected", "dot"), at(0.04, "553 5.1.8 Sender refused", "MAIL")...)},
	{name: "refusing logins", acts: append(at(0.3, "454 4.7.0 Temporary authentication failure", "AUTH"), at(0.05, "535 5.7.8 wrong user or password", "AUTH")...)},
}

func at(chance float64, reply string, moments ...string) (all []act) {
	for _, m := range moments {
		all = append(all, act{moment: m, chance: chance, reply: reply})
	}
	return all
}

func cutting(chance float64, moments ...string) (all []act) {
	for _, m := range moments {
		all = append(all, act{moment: m, chance: chance, cut: true})
	}
	return all
}

func waiting(chance float64, wait time.Duration, moments ...string) (all []act) {
	for _, m := range moments {
		all = append(all, act{moment: m, chance: chance, wait: wait})
	}
	return all
}

// swing changes the relay's mood every few seconds until the context ends, then it is
// friendly for good. It counts the moods.
func (r *relay) swing(ctx context.Context, random *rand.Rand, count func(what string)) error {
	for ctx.Err() == nil {
		m := moods[random.IntN(len(moods))]
		if err := r.feel(m); err != nil {
			return err
		}
		count("relay " + m.name)
		backoff.Sleep(ctx, time.Duration(2+random.IntN(10))*time.Second)
	}
	return r.feel(friendly)
}
