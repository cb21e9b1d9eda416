package tracing

import (
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/legible"
)

// complaints log what the library could not do, at most once a minute.
type complaints struct {
	log zerolog.Logger
	now func() time.Time

	mu      sync.Mutex
	last    time.Time
	omitted int
}

// Handle takes an error; the library calls it.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.last) >= time.Minute {
		c.log.Warn().Str("reason", legible.Clean(err.Error(), 300)).Int("not_logged", c.omitted).Msg("traces could not be sent, and are dropped; deliveries do not depend on them")
		c.last, c.omitted = now, 0
		return
	}
	c.omitted++
}
