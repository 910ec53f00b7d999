package main

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
)

// The rules of one kind before a write.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	namespaced bool
	upserts    bool                            // whether a PUT creates
	prepare    func(thing, old runtime.Object) // old is nil at creation
}

func (s strategy) NamespaceScoped() bool                                     { return s.namespaced }
func (s strategy) AllowCreateOnUpdate() bool                                 { return s.upserts }
func (s strategy) AllowUnconditionalUpdate() bool                            { return true }
func (s strategy) Canonicalize(runtime.Object)                               {}
func (s strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }
func (s strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
func (s strategy) PrepareForCreate(_ context.Context, thing runtime.Object) {
	if s.prepare != nil {
		s.prepare(thing, nil)
	}
}
func (s strategy) PrepareForUpdate(_ context.Context, thing, old runtime.Object) {
	if s.prepare != nil {
		s.prepare(thing, old)
	}
}
func (s strategy) Validate(context.Context, runtime.Object) field.ErrorList { return nil }
func (s strategy) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}

// Fields that a selector may name, as the registries of kube-apiserver have them.
func selectable(thing runtime.Object) fields.Set {
	object, err := meta.Accessor(thing)
	utilruntime.Must(err)
	set := fields.Set{"metadata.name": object.GetName()}
	if object.GetNamespace() != "" {
		set["metadata.namespace"] = object.GetNamespace()
	}
	switch thing := thing.(type) {
	case *corev1.Service:
		set["spec.clusterIP"], set["spec.type"] = thing.Spec.ClusterIP, string(thing.Spec.Type)
	case *corev1.Node:
		set["spec.unschedulable"] = strconv.FormatBool(thing.Spec.Unschedulable)
	}
	return set
}

func attributes(thing runtime.Object) (labels.Set, fields.Set, error) {
	object, err := meta.Accessor(thing)
	if err != nil {
		return nil, nil, err
	}
	return object.GetLabels(), selectable(thing), nil
}

func matcher(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: attributes}
}

func registerSelectors(scheme *runtime.Scheme) {
	for _, thing := range []runtime.Object{&corev1.Service{}, &corev1.Node{}} {
		kinds, _, err := scheme.ObjectKinds(thing)
		utilruntime.Must(err)
		known := selectable(thing)
		kind := corev1.SchemeGroupVersion.WithKind(kinds[0].Kind)
		utilruntime.Must(scheme.AddFieldLabelConversionFunc(kind, func(label, value string) (string, string, error) {
			if known.Has(label) {
				return label, value, nil
			}
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}))
	}
}

func newStore(getter generic.RESTOptionsGetter, group, plural, singular string, one, list func() runtime.Object, rules strategy) *registry.Store {
	rules.ObjectTyper, rules.NameGenerator = scheme, names.SimpleNameGenerator
	resource := schema.GroupResource{Group: group, Resource: plural}
	store := &registry.Store{
		NewFunc:                   one,
		NewListFunc:               list,
		PredicateFunc:             matcher,
		DefaultQualifiedResource:  resource,
		SingularQualifiedResource: schema.GroupResource{Group: group, Resource: singular},
		CreateStrategy:            rules,
		UpdateStrategy:            rules,
		DeleteStrategy:            rules,
		TableConvertor:            rest.NewDefaultTableConvertor(resource),
	}
	if plural == "events" {
		store.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return 3600, nil }
	}
	utilruntime.Must(store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: attributes}))
	return store
}

// The part "status" of a store.
type statusStore struct{ store *registry.Store }

func (s *statusStore) New() runtime.Object { return s.store.New() }
func (s *statusStore) Destroy()            {}
func (s *statusStore) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, name, options)
}
func (s *statusStore) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, info, create, update, false, options)
}

func statusOf(store *registry.Store, prepare func(thing, old runtime.Object)) rest.Storage {
	part := *store
	rules := part.UpdateStrategy.(strategy)
	rules.prepare = prepare
	part.UpdateStrategy = rules
	return &statusStore{&part}
}

// By group and name.
func resources(getter generic.RESTOptionsGetter) map[string]map[string]rest.Storage {
	services := newStore(getter, "", "services", "service",
		func() runtime.Object { return &corev1.Service{} }, func() runtime.Object { return &corev1.ServiceList{} },
		strategy{namespaced: true, upserts: true, prepare: prepareService})
	nodes := newStore(getter, "", "nodes", "node",
		func() runtime.Object { return &corev1.Node{} }, func() runtime.Object { return &corev1.NodeList{} },
		strategy{prepare: func(thing, old runtime.Object) {
			if old != nil {
				thing.(*corev1.Node).Status = old.(*corev1.Node).Status
			}
		}})
	return map[string]map[string]rest.Storage{
		"": {
			"services":        services,
			"services/status": statusOf(services, func(thing, old runtime.Object) { thing.(*corev1.Service).Spec = old.(*corev1.Service).Spec }),
			"nodes":           nodes,
			"nodes/status":    statusOf(nodes, func(thing, old runtime.Object) { thing.(*corev1.Node).Spec = old.(*corev1.Node).Spec }),
			"namespaces": newStore(getter, "", "namespaces", "namespace",
				func() runtime.Object { return &corev1.Namespace{} }, func() runtime.Object { return &corev1.NamespaceList{} }, strategy{}),
			"events": newStore(getter, "", "events", "event",
				func() runtime.Object { return &corev1.Event{} }, func() runtime.Object { return &corev1.EventList{} }, strategy{namespaced: true}),
		},
		"discovery.k8s.io": {
			"endpointslices": newStore(getter, "discovery.k8s.io", "endpointslices", "endpointslice",
				func() runtime.Object { return &discoveryv1.EndpointSlice{} }, func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
				strategy{namespaced: true, prepare: prepareSlice}),
		},
		"events.k8s.io": {
			"events": newStore(getter, "events.k8s.io", "events", "event",
				func() runtime.Object { return &eventsv1.Event{} }, func() runtime.Object { return &eventsv1.EventList{} },
				strategy{namespaced: true}),
		},
	}
}
