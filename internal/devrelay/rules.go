package devrelay

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"

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

// Rule answers a command with a refusal.
type Rule struct {
	Stage Stage
	// Sender and Recipient are globs for the addresses, * for any characters; "" matches
	// any. At StageData one matching recipient is enough.
	Sender, Recipient string
	// Code is 4yz or 5yz.
	Code int
	// Enhanced is the RFC 3463 code, "5.1.1"; "" means the class with .0.0.
	Enhanced string
	Text     string
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
		if rule.Code/100 != 4 && rule.Code/100 != 5 {
			return nil, fmt.Errorf("rule %d of the demo relay has code %d; use 4yz or 5yz", i+1, rule.Code)
		}
		if _, err := parseEnhanced(rule.Enhanced); err != nil {
			return nil, fmt.Errorf("rule %d of the demo relay: %w", i+1, err)
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

// replace replaces the rules.
func (r *rules) replace(by *rules) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list, r.left = by.list, by.left
}

// answer returns the refusal of the first rule that matches, nil if none does.
func (r *rules) answer(stage Stage, from string, recipients []string) *smtp.SMTPError {
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
		enhanced, _ := parseEnhanced(rule.Enhanced)
		return &smtp.SMTPError{Code: rule.Code, EnhancedCode: enhanced, Message: rule.Text}
	}
	return nil
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
