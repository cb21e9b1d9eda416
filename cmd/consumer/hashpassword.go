package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/certpost/certpost/internal/access"
)

type hashPasswordCmd struct{}

// shortPassword is the length below which the command warns, in characters.
const shortPassword = 12

// Help is shown below the usage.
func (*hashPasswordCmd) Help() string {
	return "Reads the password from the terminal, twice and without echo, or one line from standard input, and prints the value for http.sign_in.users[].password_hash."
}

// Run reads a password and prints its hash.
func (*hashPasswordCmd) Run(a *app) error { return hashPassword(a, os.Stdin) }

func hashPassword(a *app, stdin *os.File) error {
	password, err := readPassword(a, stdin)
	switch {
	case err != nil:
		return err
	case password == "":
		return usage("the password is empty")
	case len(password) > access.MaxPassword:
		return usage("the password is longer than %d bytes", access.MaxPassword)
	case !utf8.ValidString(password):
		return usage("the password is not UTF-8, and browsers send UTF-8")
	}
	if utf8.RuneCountInString(password) < shortPassword {
		fmt.Fprintf(a.stderr, "certpost: warning: the password has less than %d characters: if the hash is stolen, it can be guessed easily\n", shortPassword)
	}
	fmt.Fprintln(a.stdout, access.NewHash(password))
	return nil
}

// readPassword reads from a terminal twice, because it does not show the input, and
// from anything else one line.
func readPassword(a *app, stdin *os.File) (string, error) {
	fd := int(stdin.Fd())
	if !term.IsTerminal(fd) {
		line, err := bufio.NewReader(io.LimitReader(stdin, access.MaxPassword+2)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	first, err := a.unseen(fd, "Password: ")
	if err != nil {
		return "", err
	}
	second, err := a.unseen(fd, "Again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", usage("the passwords differ: nothing was hashed")
	}
	return first, nil
}

// unseen reads a line without echo. On an interrupt it restores the terminal's state,
// because the signal does not end term.ReadPassword, which would do it.
func (a *app) unseen(fd int, prompt string) (string, error) {
	state, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	fmt.Fprint(a.stderr, prompt)
	defer fmt.Fprintln(a.stderr)
	entered, err := a.answer(func() (string, error) {
		line, err := term.ReadPassword(fd)
		return string(line), err
	})
	if errors.Is(err, errInterrupted) {
		return "", errors.Join(&failure{exitFailed, fmt.Errorf("%w: nothing was hashed", err)}, term.Restore(fd, state))
	}
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return entered, nil
}
