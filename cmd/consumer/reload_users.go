package main

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/delivery"
)

// peopleWatch applies users and roles when the configuration changes, so that a removed
// user is signed out without a restart. Other changes of the section require one.
type peopleWatch struct {
	cfg   *HTTPConfig
	guard *access.Access
	log   zerolog.Logger
	used  [sha256.Size]byte // the file that was read last
}

func newPeopleWatch(cfg *HTTPConfig, guard *access.Access, log zerolog.Logger) *peopleWatch {
	w := &peopleWatch{cfg: cfg, guard: guard, log: log}
	w.used, _ = w.look()
	return w
}

func (w *peopleWatch) look() (seen [sha256.Size]byte, ok bool) {
	data, err := config.Read(w.cfg.file)
	return sha256.Sum256(data), err == nil
}

// run reads the file at each delivery.PollInterval, until the context ends. It applies a
// change once two reads in a row are the same.
func (w *peopleWatch) run(ctx context.Context) {
	if w.cfg.file == "" || !w.cfg.SignIn.on() {
		return
	}
	ticker := time.NewTicker(delivery.PollInterval)
	defer ticker.Stop()
	last := w.used
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, ok := w.look()
		settled := ok && now == last
		last = now
		if settled && now != w.used {
			w.used = now
			w.renew()
		}
	}
}

// renew reads the configuration again; an invalid one is ignored. Removed users are signed
// out even if another change requires a restart, also if that is the removal of sign-in.
func (w *peopleWatch) renew() {
	next, problems := w.cfg.again()
	if config.Failed(problems) {
		w.log.Error().Str("problem", problems[0].Error()).Msg("the new configuration cannot be used; users and roles stay as they are")
		return
	}
	accounts, err := next.SignIn.accounts()
	if err != nil {
		w.log.Error().Err(err).Msg("users and roles stay as they are")
		return
	}
	had, has := w.cfg.SignIn, next.SignIn
	roles := has.OIDC.Roles.byRole()
	switch {
	case !has.on(): // without sign-in everyone would be the administrator
		w.log.Warn().Msg("removing sign-in requires a restart; until then nobody can sign in")
	case has.OIDC.Issuer != had.OIDC.Issuer || has.OIDC.RoleClaim != had.OIDC.RoleClaim:
		roles = nil
		w.log.Warn().Msg("a change of the provider or of its claim for roles requires a restart; until then sign-in at a provider is refused")
	case len(has.Users) > 0 && len(had.Users) == 0:
		w.log.Warn().Msg("adding the first users with passwords requires a restart")
	}
	if ended := w.guard.Renew(accounts, roles); ended > 0 {
		w.log.Info().Int("sessions_ended", ended).Msg("users or roles have changed")
	}
}
