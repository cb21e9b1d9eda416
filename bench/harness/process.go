// Package harness is what the programs share that take processes away while Certpost
// delivers, and account for every event afterwards (bench/crash, bench/cluster, bench/soak):
// processes that are ended, stopped and started again, NATS servers, a publisher that does
// not give up, and the sums.
package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Process is a program that is started again and again. It is used by one goroutine at a
// time.
type Process struct {
	Name    string
	Log     string // file for its output, appended to
	Command func() *exec.Cmd

	process *exec.Cmd
	ended   chan error // receives the result of the process when it ends
}

// Start starts the process.
func (p *Process) Start() error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := p.Command()
	cmd.Stdout, cmd.Stderr = log, log
	// It ends with this process, however that ends: a stopped one would stay for ever.
	cmd.SysProcAttr = endWithParent()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	p.process, p.ended = cmd, make(chan error, 1)
	go func(ended chan<- error) { ended <- cmd.Wait() }(p.ended)
	return nil
}

// Signal sends a signal to the running process.
func (p *Process) Signal(s os.Signal) error {
	if err := p.process.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}

// End sends a signal that ends the process, and waits for that. Without a process it does
// nothing. The error says that it did not end well, which only SIGKILL excuses.
func (p *Process) End(s os.Signal) error {
	if p.process == nil {
		return nil
	}
	if err := p.Signal(s); err != nil {
		return err
	}
	err := <-p.ended
	p.process = nil
	if err == nil || s == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("%s: %w", p.Name, err)
}

// EndedByItself returns an error if the process has ended and End was not called.
func (p *Process) EndedByItself() error {
	if p.process == nil {
		return nil
	}
	select {
	case err := <-p.ended:
		p.process = nil
		return fmt.Errorf("%s ended by itself: %v; see %s", p.Name, err, p.Log)
	default:
		return nil
	}
}

// PID returns the number of the running process.
func (p *Process) PID() int { return p.process.Process.Pid }

// Runs reports whether the process was started and End was not called since.
func (p *Process) Runs() bool { return p.process != nil }
