package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
	"software.sslmate.com/src/go-pkcs12"
)

// peers are the contestants that are written here. Each is this program started again, with
// the name as its first argument.
var peers = map[string]func(args []string) error{"go-mail-loop": runGoMail, "pkcs12-loop": runPKCS12}

// self runs one of the peers until it ends and returns what it used.
func self(ctx context.Context, r Result, args ...string) (Result, error) {
	program, err := os.Executable()
	if err != nil {
		return r, err
	}
	peer := exec.CommandContext(ctx, program, args...)
	peer.Stderr = os.Stderr
	if err := peer.Run(); err != nil {
		return r, fmt.Errorf("%s: %w", args[0], err)
	}
	used := peer.ProcessState.SysUsage().(*syscall.Rusage)
	r.CPU = float64((peer.ProcessState.UserTime()+peer.ProcessState.SystemTime())/time.Microsecond) / 1000 / float64(r.Mails)
	r.Memory = float64(used.Maxrss) / 1024 // kilobytes on Linux, getrusage(2)
	return r, nil
}

// goMailLoop is go-mail at its best: kept connections, the better of 8 and of 32 of them.
func goMailLoop(ctx context.Context, b *bench) (best Result, err error) {
	for _, workers := range []int{8, 32} {
		r, err := b.goMail(ctx, workers)
		if err != nil {
			return r, err
		}
		if r.Rate > best.Rate {
			best = r
		}
	}
	return best, nil
}

func (b *bench) goMail(ctx context.Context, workers int) (r Result, err error) {
	s, err := openSink(ctx)
	if err != nil {
		return r, err
	}
	defer s.close()
	file := filepath.Join(b.dir, "chains.json")
	text, err := json.Marshal(b.chains)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		return r, err
	}
	if r, err = self(ctx, Result{Mails: b.mails}, "go-mail-loop", s.address, strconv.Itoa(workers), file); err != nil {
		return r, err
	}
	taken, err := s.await(ctx, b.mails)
	if err != nil {
		return r, err
	}
	r.Rate = paced(taken)
	return r, nil
}

// runGoMail is the loop: each worker builds and sends one mail after the other.
func runGoMail(args []string) error {
	if len(args) != 3 {
		return errors.New("go-mail-loop: want an address, a number of workers and a file")
	}
	workers, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	text, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	var chains []string
	if err := json.Unmarshal(text, &chains); err != nil {
		return err
	}
	var next atomic.Int64
	errs := make(chan error, workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			client, conn, err := dialGoMail(args[0])
			for i := next.Add(1) - 1; err == nil && i < int64(len(chains)); i = next.Add(1) - 1 {
				err = sendGoMail(client, conn, fmt.Sprintf("host%05d.example.com", i), chains[i])
			}
			if err == nil {
				err = client.CloseWithSMTPClient(conn)
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func dialGoMail(address string) (*gomail.Client, *smtp.Client, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, nil, err
	}
	client, err := gomail.NewClient(host, gomail.WithPort(number), gomail.WithTLSPolicy(gomail.NoTLS), gomail.WithoutNoop())
	if err != nil {
		return nil, nil, err
	}
	conn, err := client.DialToSMTPClientWithContext(context.Background())
	return client, conn, err
}

// filler makes the mails of the loop as large as Certpost's: text and HTML of that size.
var filler = strings.Repeat("The certificate of this host is attached to this mail.\r\n", 40)

func sendGoMail(client *gomail.Client, conn *smtp.Client, name, chain string) error {
	msg := gomail.NewMsg()
	if err := msg.From("certpost@example.com"); err != nil {
		return err
	}
	if err := msg.To("certificates@example.com"); err != nil {
		return err
	}
	msg.SetMessageID()
	msg.SetDate()
	msg.Subject("Certpost: certificate for " + name + " issued")
	msg.SetBodyString(gomail.TypeTextPlain, name+"\r\n"+filler[:len(filler)/3])
	msg.AddAlternativeString(gomail.TypeTextHTML, "<p>"+name+"</p>"+filler+filler)
	if err := msg.AttachReader(name+".pem", strings.NewReader(chain)); err != nil {
		return err
	}
	return client.SendWithSMTPClient(conn, msg)
}

// goMailIdle sends one mail at a time on a kept connection, and before each flushes some
// writes of an event's size to the disk, one after the other.
func goMailIdle(flushes int) func(context.Context, *bench) (Result, error) {
	return func(ctx context.Context, b *bench) (r Result, err error) {
		s, err := openSink(ctx)
		if err != nil {
			return r, err
		}
		defer s.close()
		client, conn, err := dialGoMail(s.address)
		if err != nil {
			return r, err
		}
		file, err := os.CreateTemp(b.dir, "flushed-")
		if err != nil {
			return r, err
		}
		defer file.Close()
		record := make([]byte, 8500)
		r, err = gently(ctx, s, min(gentle, b.mails), func(i int) error {
			for range flushes {
				if _, err := file.Write(record); err != nil {
					return err
				}
				if err := file.Sync(); err != nil {
					return err
				}
			}
			return sendGoMail(client, conn, "host.example.com", b.chains[i])
		})
		return r, errors.Join(err, client.CloseWithSMTPClient(conn))
	}
}

// smtpSource shows what the sink can take.
func smtpSource(ctx context.Context, b *bench) (r Result, err error) {
	s, err := openSink(ctx)
	if err != nil {
		return r, err
	}
	defer s.close()
	used, err := runSource(ctx, s.address, b.mails)
	if err != nil {
		return r, err
	}
	taken, err := s.await(ctx, b.mails)
	if err != nil {
		return r, err
	}
	return Result{Mails: b.mails, Rate: paced(taken), CPU: float64(used/time.Microsecond) / 1000 / float64(b.mails)}, nil
}

// runSource sends mails of Certpost's size with smtp-source, over 20 kept connections.
func runSource(ctx context.Context, address string, mails int) (cpu time.Duration, err error) {
	source := exec.CommandContext(ctx, "smtp-source", "-d", "-s", "20", "-l", "11600", "-m", strconv.Itoa(mails), "-f", "certpost@example.com", "-t", "certificates@example.com", address)
	if text, err := source.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("smtp-source: %w\n%s", err, text)
	}
	return source.ProcessState.UserTime() + source.ProcessState.SystemTime(), nil
}

// pkcs12Loop encodes on all cores, and does nothing else.
func pkcs12Loop(ctx context.Context, b *bench) (r Result, err error) {
	file := filepath.Join(b.dir, "keyed.json")
	text, err := json.Marshal(b.keyed)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		return r, err
	}
	start := time.Now()
	r, err = self(ctx, Result{Mails: len(b.keyed)}, "pkcs12-loop", file, b.key)
	r.Rate = float64(r.Mails) / time.Since(start).Seconds()
	return r, err
}

func runPKCS12(args []string) error {
	if len(args) != 2 {
		return errors.New("pkcs12-loop: want a file with chains and one with their key")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var chains []string
	if err := json.Unmarshal(text, &chains); err != nil {
		return err
	}
	keyText, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	block, _ := pem.Decode(keyText)
	if block == nil {
		return errors.New("pkcs12-loop: the key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	var next atomic.Int64
	errs := make(chan error, runtime.NumCPU())
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(chains)); i = next.Add(1) - 1 {
				if err := encodePKCS12(key, chains[i]); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func encodePKCS12(key any, chain string) error {
	var certificates []*x509.Certificate
	for rest := []byte(chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		certificates = append(certificates, c)
	}
	_, err := pkcs12.Modern2023.WithRand(rand.Reader).Encode(key, certificates[0], certificates[1:], "bench-passphrase")
	return err
}
