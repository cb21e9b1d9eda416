package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
)

// bench is what all measurements share.
type bench struct {
	options
	chains []string // a leaf with a key of its own and its CA, PEM; one for each mail
	key    string   // file of an RSA key
	keyed  []string // as chains, all with leaves of that key
	serial int      // of the next directory
}

// gentle is the number of mails of the measurements that send one at a time, and keyedMails
// that of those that encode PKCS#12, which cost several times as much.
const gentle = 250

func (b *bench) keyedMails() int { return max(b.mails/3, 50) / 50 * 50 }

func newBench(o options) (*bench, error) {
	b := &bench{options: o}
	for i := range o.mails {
		chain, err := road.NewChain(fmt.Sprintf("host%05d.example.com", i))
		if err != nil {
			return nil, err
		}
		b.chains = append(b.chains, chain)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	b.key = filepath.Join(o.dir, "key.pem")
	if err := os.WriteFile(b.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	for i := range b.keyedMails() {
		chain, err := road.NewChainFor(fmt.Sprintf("keyed%05d.example.com", i), &key.PublicKey)
		if err != nil {
			return nil, err
		}
		b.keyed = append(b.keyed, chain)
	}
	return b, nil
}

// newDir makes an empty directory for one measurement. It returns its removal too.
func (b *bench) newDir(name string) (string, func(), error) {
	b.serial++
	dir := filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, b.serial))
	return dir, func() { _ = os.RemoveAll(dir) }, os.Mkdir(dir, 0o755)
}

// measurements are all measurements, by the names that figures use.
var measurements = map[string]func(context.Context, *bench) (Result, error){
	"certpost durable backlog":    certpostBacklog("always"),
	"certpost durable road":       certpostRoad(job{sync: "always", targets: 1, payload: "pem"}),
	"certpost relaxed backlog":    certpostBacklog("2m"),
	"certpost relaxed road":       certpostRoad(job{sync: "2m", targets: 1, payload: "pem"}),
	"certpost pkcs12":             certpostRoad(job{sync: "2m", targets: 1, payload: "pkcs12"}),
	"certpost pkcs12, 50 targets": certpostRoad(job{sync: "2m", targets: 50, payload: "pkcs12"}),
	"certpost 100 targets":        certpostRoad(job{sync: "2m", targets: 100, payload: "pem"}),
	"certpost durable idle":       certpostIdle("always"),
	"certpost relaxed idle":       certpostIdle("2m"),
	"postfix backlog":             postfixBacklog,
	"postfix road":                postfixRoad,
	"go-mail loop":                goMailLoop,
	"go-mail idle":                goMailIdle(0),
	"go-mail idle and 3 flushes":  goMailIdle(3),
	"smtp-source":                 smtpSource,
	"pkcs12 loop":                 pkcs12Loop,
}

// paced returns the rate from the first of the mails to the last: what starts the delivery,
// such as a command, is in no figure.
func paced(taken []time.Time) float64 {
	return float64(len(taken)-1) / taken[len(taken)-1].Sub(taken[0]).Seconds()
}

// since returns the rate from a moment to the last of the mails.
func since(start time.Time, taken []time.Time) float64 {
	return float64(len(taken)) / taken[len(taken)-1].Sub(start).Seconds()
}

// spent completes a result with what a process used since before.
func spent(r Result, pid int, before harness.Usage) (Result, error) {
	now, err := harness.UsageOf(pid)
	r.CPU = float64(now.CPU-before.CPU) / float64(time.Millisecond) / float64(r.Mails)
	r.Memory = float64(now.Peak) / (1 << 20)
	return r, err
}
