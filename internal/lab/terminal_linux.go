package lab

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTerminal opens a pseudo terminal (pts(4)).
func openTerminal() (person, program *os.File, err error) {
	if person, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			person.Close()
		}
	}()
	control, err := person.SyscallConn() // with Fd, Close would not end a blocked Read
	if err != nil {
		return nil, nil, err
	}
	var number int
	var answered error
	err = control.Control(func(fd uintptr) {
		if answered = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); answered == nil {
			number, answered = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err = errors.Join(err, answered); err != nil {
		return nil, nil, fmt.Errorf("unlock it: %w", err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	return person, program, err
}

// Echoes reports whether the terminal shows its input (termios(3), ECHO).
func (t *Terminal) Echoes() bool {
	t.t.Helper()
	state, err := unix.IoctlGetTermios(int(t.Program.Fd()), unix.TCGETS)
	if err != nil {
		t.t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}
