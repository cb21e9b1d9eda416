package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/secrets"
)

// verifyFile checks an export; exit 1 if it is not as it was written. It needs the keys, and no
// NATS.
func (c *auditVerifyCmd) verifyFile(a *app) error {
	anchors, err := c.anchors()
	if err != nil {
		return usage("%w", err)
	}
	keys, err := c.keys(a)
	if err != nil {
		return err
	}
	var in io.ReadSeeker
	if c.File == "-" {
		text, err := io.ReadAll(os.Stdin)
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		in = bytes.NewReader(text)
	} else {
		f, err := os.Open(c.File)
		if err != nil {
			return usage("--file: %w", err)
		}
		defer f.Close()
		in = f
	}
	report, end, err := broker.VerifyExport(in, keys, anchors...)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	if c.Output == "json" {
		err = a.json(verification{AuditReport: report, Export: end})
	} else {
		printVerification(a.stdout, report, nil)
		if end != nil && report.Break == nil {
			fmt.Fprintf(a.stdout, "exported on %s, complete up to record %d\n", when(end.Exported), end.Head.Sequence)
		}
	}
	if err == nil && report.Break != nil {
		return &failure{exitFailed, fmt.Errorf("the exported audit is not as it was written: %s", report.Break.What)}
	}
	return err
}

// keys returns the keys of --key-file, else those of the configuration.
func (c *auditVerifyCmd) keys(a *app) (*broker.AuditKeys, error) {
	if c.KeyFile != "" {
		keys, err := readAuditKeys(c.KeyFile)
		if err != nil {
			return nil, usage("--key-file: %w", err)
		}
		return keys, nil
	}
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return nil, err
	}
	store, err := secrets.Open(cfg.Vault, a.logger(LogConfig{Level: "error", Format: cfg.Log.Format}))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	var from broker.Config
	cfg.auditKeys(&from, store)
	if from.AuditKeys == nil {
		return nil, usage("--file needs the keys with which the records are signed: name their file with --key-file, or set audit.key")
	}
	return from.AuditKeys(a.ctx)
}
