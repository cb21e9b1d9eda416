package main

import (
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// screen is an output of the program, with what the terminal that it may be can show. Commands
// write to it as to any other writer.
type screen struct {
	io.Writer
	terminal bool
	width    int  // columns; 0: it is no terminal, and lines have any length
	colours  bool // NO_COLOR is not set, and TERM is not dumb
	moves    bool // the cursor can be moved, for progress bars
}

// newScreen asks a terminal for its width; COLUMNS overrides it, as in other programs.
func newScreen(w io.Writer, env []string) *screen {
	s := &screen{Writer: w}
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return s
	}
	s.describe(env)
	if s.width == 0 {
		s.width, _, _ = term.GetSize(int(file.Fd())) // 0 if it has none
	}
	return s
}

// describe sets what the environment says of a terminal.
func (s *screen) describe(env []string) {
	s.terminal = true
	s.moves = variable(env, "TERM") != "dumb"
	s.colours = s.moves && variable(env, "NO_COLOR") == ""
	if columns, err := strconv.Atoi(variable(env, "COLUMNS")); err == nil && columns > 0 {
		s.width = columns
	}
}

// screenOf returns the screen that w is; one without a terminal if it is none.
func screenOf(w io.Writer) *screen {
	if s, ok := w.(*screen); ok {
		return s
	}
	return &screen{Writer: w}
}

// variable returns the value of an environment variable, "" if it is not set. Of several
// values the last one counts.
func variable(env []string, name string) string {
	for _, pair := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

// colour is a style of text in a terminal (ECMA-48 SGR).
type colour string

const (
	bold   colour = "1"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// paint returns a text in a colour, if the screen shows colours.
func (s *screen) paint(c colour, text string) string {
	if !s.colours || c == "" || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// columnsOfStates are the columns whose cells have a colour of their own.
var columnsOfStates = []string{"STATE", "STATUS", "SENT?", "OUTLOOK", "SEVERITY", "RESULT"}

// colourOf returns the colour of a state, a status, or a certainty: red for what needs
// an operator, yellow for what may need one, green for what is well.
func colourOf(state string) colour {
	word, _, _ := strings.Cut(state, " (")
	switch word {
	case "dead", "dead again", "error", "failed", "firing", "nothing succeeds", "not served", "mail host is away", "page", "fails", "stopped":
		return red
	case "waiting", "suspended", "paused", "warning", "may-have-been-sent", "ticket", "not-known", "not-tried", "disabled", "silenced", "deliveries held back", "at the relay's own limit":
		return yellow
	case "sent", "delivered", "delivers", "done", "ok", "accepted", "enabled":
		return green
	}
	return ""
}
