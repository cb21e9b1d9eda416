package main

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// terms are the durations of an election.
type terms struct{ lease, renew, retry time.Duration }

// usualTerms are those of Kubernetes' own controllers. A leader that cannot renew its lease stops
// before another one may take it.
var usualTerms = terms{lease: 15 * time.Second, renew: 10 * time.Second, retry: 2 * time.Second}

// elect calls lead while this process holds the lease, until the context ends. Two leaders at once,
// after a clock has jumped, publish the same events under the same ids.
func elect(ctx context.Context, client coordinationv1.LeasesGetter, o options, r *reporter, lead func(context.Context)) error {
	lock := &reportingLock{reporter: r, Interface: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: o.leaseNamespace, Name: o.lease},
		Client:     client,
		LockConfig: resourcelock.ResourceLockConfig{Identity: o.identity},
	}}
	var one sync.Mutex // a term may still be ending when the next one begins
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, Name: o.lease, ReleaseOnCancel: true,
			LeaseDuration: o.terms.lease, RenewDeadline: o.terms.renew, RetryPeriod: o.terms.retry,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					one.Lock()
					defer one.Unlock()
					if ctx.Err() == nil {
						r.report(line{Type: typeLeading})
						lead(ctx)
					}
				},
				OnStoppedLeading: func() {},
				OnNewLeader: func(holder string) {
					if holder != o.identity {
						r.report(line{Type: typeStandby, Holder: holder})
					}
				},
			},
		})
		if err != nil {
			return err
		}
		r.report(line{Type: typeStandby})
		elector.Run(ctx)
	}
	return nil
}

// reportingLock reports what keeps this process from taking part in the election.
type reportingLock struct {
	resourcelock.Interface
	*reporter
}

func (l *reportingLock) result(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
	case apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.IsAlreadyExists(err): // part of an election
	default:
		l.troubled("leader election with the lease "+l.Describe(), err)
	}
	return err
}

func (l *reportingLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	return record, raw, l.result(ctx, err)
}

func (l *reportingLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.result(ctx, l.Interface.Create(ctx, record))
}

func (l *reportingLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.result(ctx, l.Interface.Update(ctx, record))
}
