package devrelay

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Stage is the command that a rule answers.
type Stage string

// The stages.
const (
	StageMail Stage = "mail" // MAIL FROM
	StageRcpt Stage = "rcpt" // RCPT TO
	StageData Stage = "data" // the final dot
)

// Rule answers a command with a refusal, or with silence.
type Rule struct {
	Stage Stage
	// Sender and Recipient are globs for the addresses, * for any characters; "" matches
	// any. At StageData one matching recipient is enough.
	Sender, Recipient string
	// Code is 4yz or 5yz; 0 with Disconnect.
	Code int
	// Enhanced is the RFC 3463 code, "5.1.1"; "" means the class with .0.0.
	Enhanced string
	Text     string
	// Disconnect closes the connection instead of a reply. At StageData the mail has been
	// accepted then, and its client cannot know it.
	Disconnect bool
	// Delay is how long the answer takes.
	Delay time.Duration
	// Times is how often the rule answers before it stops matching; 0 means always.
	Times int
}

// rules are the rules of one relay, and how often each may still answer.
type rules struct {
	mu   sync.Mutex
	list []Rule // guarded by mu
	left []int  // guarded by mu
}

func newRules(list []Rule) (*rules, error) {
	r := &rules{list: list, left: make([]int, len(list))}
	for i, rule := range list {
		r.left[i] = rule.Times
		switch {
		case rule.Disconnect && (rule.Code != 0 || rule.Enhanced != "" || rule.Text != ""):
			return nil, fmt.Errorf("rule %d of the demo relay has a reply, but disconnects instead of a reply", i+1)
		case !rule.Disconnect && rule.Code/100 != 4 && rule.Code/100 != 5:
			return nil, fmt.Errorf("rule %d of the demo relay has code %d; use 4yz or 5yz", i+1, rule.Code)
		case !rule.Disconnect && rule.Code/10%10 > 5:
			return nil, fmt.Errorf("rule %d of the demo relay has code %d, which is no SMTP reply: the second digit is 0 to 5", i+1, rule.Code)
		case strings.ContainsAny(rule.Text, "\r\n"):
			return nil, fmt.Errorf("rule %d of the demo relay has a text of more than one line", i+1)
		}
		enhanced, err := parseEnhanced(rule.Enhanced)
		if err != nil {
			return nil, fmt.Errorf("rule %d of the demo relay: %w", i+1, err)
		}
		if rule.Enhanced != "" && enhanced[0] != rule.Code/100 {
			return nil, fmt.Errorf("rule %d of the demo relay has code %d with %s; the enhanced code begins with the same digit, %d", i+1, rule.Code, rule.Enhanced, rule.Code/100)
		}
		switch rule.Stage {
		case StageRcpt, StageData:
		case StageMail:
			if rule.Recipient != "" {
				return nil, fmt.Errorf("rule %d of the demo relay has a recipient, but answers MAIL, before any recipient is known", i+1)
			}
		default:
			return nil, fmt.Errorf("rule %d of the demo relay has stage %q; use mail, rcpt or data", i+1, rule.Stage)
		}
		for _, glob := range []string{rule.Sender, rule.Recipient} {
			if _, err := path.Match(glob, ""); err != nil {
				return nil, fmt.Errorf("rule %d of the demo relay: %q is not a glob", i+1, glob)
			}
		}
	}
	return r, nil
}

// CheckRules says what is wrong with the first rule that is malformed.
func CheckRules(list []Rule) error {
	_, err := newRules(list)
	return err
}

// replace replaces the rules.
func (r *rules) replace(by *rules) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list, r.left = by.list, by.left
}

// match returns the first rule that matches, nil if none does.
func (r *rules) match(stage Stage, from string, recipients []string) *Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, rule := range r.list {
		if rule.Stage != stage || !fits(rule.Sender, from) || !fitsAny(rule.Recipient, recipients) {
			continue
		}
		if rule.Times > 0 {
			if r.left[i] == 0 {
				continue
			}
			r.left[i]--
		}
		return &rule
	}
	return nil
}

// reply is the rule's reply.
func (r *Rule) reply() *smtp.SMTPError {
	enhanced, _ := parseEnhanced(r.Enhanced) // was checked by newRules
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: enhanced, Message: r.Text}
}

func fitsAny(glob string, addresses []string) bool {
	if glob == "" {
		return true
	}
	for _, address := range addresses {
		if fits(glob, address) {
			return true
		}
	}
	return false
}

func fits(glob, address string) bool {
	if glob == "" {
		return true
	}
	matched, _ := path.Match(strings.ToLower(glob), strings.ToLower(address))
	return matched
}

func parseEnhanced(text string) (smtp.EnhancedCode, error) {
	if text == "" {
		return smtp.EnhancedCodeNotSet, nil
	}
	var code smtp.EnhancedCode
	parts := strings.Split(text, ".")
	if len(parts) != len(code) {
		return code, fmt.Errorf("%q is not an enhanced status code like 5.1.1", text)
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || n > 999 {
			return code, fmt.Errorf("%q is not an enhanced status code like 5.1.1", text)
		}
		code[i] = n
	}
	return code, nil
}
