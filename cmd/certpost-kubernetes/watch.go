package main

import (
	"context"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// prefix begins the labels and annotations that belong to Certpost.
const prefix = "certpost.github.io/"

// watcher reports the TLS secrets of namespaces.
type watcher struct {
	client rest.Interface
	options
	*reporter
	memory *memory
}

// watch reports all secrets, then each change, until the context ends. The API server selects by
// label and type, so that no other secret comes into this process.
func (w *watcher) watch(ctx context.Context) {
	if !w.memory.load(ctx) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	defer keeping.Wait() // until the last changes are saved
	defer cancel()
	keeping.Go(func() { w.memory.keep(ctx) })
	var informers sync.WaitGroup
	var stores []cache.Store
	var synced []cache.InformerSynced
	for _, namespace := range w.namespaces {
		informer := cache.NewSharedIndexInformer(w.listWatch(namespace), &corev1.Secret{}, w.resync, cache.Indexers{})
		// Failures are reported by listWatch; the default handler would log them.
		_ = informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {})
		_ = informer.SetTransform(func(object any) (any, error) {
			if s, ok := object.(*corev1.Secret); ok {
				s.ManagedFields = nil
			}
			return object, nil
		})
		handled, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    w.seen,
			UpdateFunc: func(_, now any) { w.seen(now) },
			DeleteFunc: w.gone,
		})
		if err != nil { // only of an informer that has ended
			w.troubled("watch secrets", err)
			return
		}
		synced, stores = append(synced, handled.HasSynced), append(stores, informer.GetStore())
		informers.Go(func() { informer.RunWithContext(ctx) })
	}
	if cache.WaitForCacheSync(ctx.Done(), synced...) {
		for i, namespace := range w.namespaces {
			w.memory.prune(namespace, func(namespace, name string) bool {
				_, exists, err := stores[i].GetByKey(namespace + "/" + name)
				return exists || err != nil
			})
		}
		w.report(line{Type: typeComplete})
	}
	informers.Wait()
	for _, namespace := range w.namespaces { // the next leader begins anew
		w.troubled(w.task(namespace), nil)
	}
}

func (w *watcher) task(namespace string) string {
	if namespace == metav1.NamespaceAll {
		return "list and watch secrets in all namespaces"
	}
	return "list and watch secrets in namespace " + namespace
}

// listWatch lists and watches the secrets of a namespace, and reports whether that works.
func (w *watcher) listWatch(namespace string) *cache.ListWatch {
	lw := cache.NewFilteredListWatchFromClient(w.client, "secrets", namespace, func(o *metav1.ListOptions) {
		o.LabelSelector, o.FieldSelector = w.selector, "type="+string(corev1.SecretTypeTLS)
	})
	result := func(ctx context.Context, err error) {
		// Servers before 1.34 refuse a watch that begins with what exists; a list follows.
		if ctx.Err() == nil && !apierrors.IsInvalid(err) {
			w.troubled(w.task(namespace), err)
		}
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := lw.ListWithContextFunc(ctx, o)
			result(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			changes, err := lw.WatchFuncWithContext(ctx, o)
			result(ctx, err)
			return changes, err
		},
	}
}

func (w *watcher) seen(object any) {
	s, ok := object.(*corev1.Secret)
	if !ok {
		return
	}
	l := line{Type: typeSecret, Namespace: s.Namespace, Name: s.Name, UID: string(s.UID), Certificate: s.Data[corev1.TLSCertKey], PrivateKey: s.Data[corev1.TLSPrivateKeyKey],
		Published: w.memory.published(s.Namespace, s.Name)}
	for name, value := range s.Annotations {
		if own, ok := strings.CutPrefix(name, prefix); ok {
			if l.Annotations == nil {
				l.Annotations = map[string]string{}
			}
			l.Annotations[own] = value
		}
	}
	w.report(l)
}

func (w *watcher) gone(object any) {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok { // the deletion itself was missed
		object = unknown.Obj
	}
	if s, ok := object.(*corev1.Secret); ok {
		w.memory.set(s.Namespace, s.Name, "")
		w.report(line{Type: typeGone, Namespace: s.Namespace, Name: s.Name})
	}
}
