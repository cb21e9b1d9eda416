package secrets

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// BenchmarkGet measures references resolved per second by a real Vault on
// loopback: from the cache, and by one request each. The last figure is the
// number of requests that reached the server per reference.
func BenchmarkGet(b *testing.B) {
	const refs = 100
	v := lab.Vault(b)
	v.Policy(b, "reader", readSecret)
	all := make([]Ref, refs)
	for i := range all {
		v.Put(b, fmt.Sprintf("secret/smtp/relay%d", i), map[string]any{"password": fmt.Sprint("password-", i)})
		all[i] = mustRef(b, fmt.Sprintf("vault:secret/smtp/relay%d#password", i))
	}
	for _, how := range []string{"cached", "uncached"} {
		b.Run(how, func(b *testing.B) {
			store, err := Open(Config{Address: v.Address, Auth: asToken(v.Token(b, "1h", "reader"))}, zerolog.Nop())
			if err != nil {
				b.Fatal(err)
			}
			defer store.Close()
			get := store.Get
			if how == "uncached" {
				get = store.Uncached
			}
			for _, ref := range all {
				if _, err := get(b.Context(), ref, nil); err != nil {
					b.Fatal(err)
				}
			}
			before := reads(b, v)
			var next atomic.Int64
			b.SetParallelism(8)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					secret, err := get(b.Context(), all[next.Add(1)%refs], nil)
					if err != nil || secret.Value.IsZero() {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "refs/s")
			b.ReportMetric(float64(reads(b, v)-before)/float64(b.N), "requests/ref")
		})
	}
}

func reads(b *testing.B, v *lab.VaultServer) (n int) {
	for path, count := range v.Requests(b) {
		if strings.HasPrefix(path, "read secret/data/smtp/") {
			n += count
		}
	}
	return n
}
