// Command containers-check reads files as Docker does, without Docker:
//
//	containers-check dockerfile FILE   # instructions, and what BuildKit's linter warns of
//	containers-check compose FILE      # the model that Compose makes of the file and .env beside it, as JSON
//
// It ends with 1 and the reason if the file cannot be used as it is.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "containers-check:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("want: dockerfile FILE, or compose FILE")
	}
	switch args[0] {
	case "dockerfile":
		return dockerfile(args[1])
	case "compose":
		return compose(args[1])
	}
	return fmt.Errorf("unknown kind of file %q", args[0])
}

func dockerfile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	var warnings []error
	for _, w := range parsed.Warnings {
		warnings = append(warnings, errors.New(w.Short))
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, at []parser.Range) {
		warnings = append(warnings, fmt.Errorf("%v: %s: %s", at, rule, message))
	}})
	stages, _, err := instructions.Parse(parsed.AST, lint)
	if err != nil {
		return err
	}
	for _, s := range stages {
		fmt.Printf("FROM %s\n", s.BaseName)
		for _, c := range s.Commands {
			fmt.Println(c)
		}
	}
	return errors.Join(warnings...)
}

func compose(path string) error {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithWorkingDirectory(filepath.Dir(path)), cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv)
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	model, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(model, '\n'))
	return err
}
