package mongoloop

import (
	"context"

	"github.com/onloop/eventloop"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// A Collection is a collection whose documents are values of T: a struct with bson tags,
// bson.M, bson.Raw, or any other type that package bson of the official client supports.
//
// The methods are those of the official client, with its filters, updates, options and
// results. Each returns at once. They encode and decode on another goroutine: the caller
// must not change a filter, an update or a document before the future has its result. The
// error of an operation is an [*Error]. An operation that never begins, or whose encoding or
// decoding panics, fails as described at [eventloop.WorkOn].
type Collection[T any] struct {
	client *Client
	coll   *mongo.Collection
}

// In returns a collection of a database. Neither has to exist.
func In[T any](c *Client, database, name string, opts ...options.Lister[options.CollectionOptions]) *Collection[T] {
	checkClient(c)
	return &Collection[T]{c, c.mongo.Database(database).Collection(name, opts...)}
}

// Mongo returns the collection of the official client, whose methods block. See [Client.Mongo].
func (c *Collection[T]) Mongo() *mongo.Collection { return c.coll }

func (c *Collection[T]) name() string { return c.coll.Database().Name() + "." + c.coll.Name() }

// fail returns err as the error of an operation with the context ctx.
func (c *Collection[T]) fail(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{op, c.name(), withContext(ctx, err)}
}

// The functions of operations are literals in the methods, so that Loop.Handles shows which
// operations are pending.

// single decodes the document of a result. With an error it returns the zero T, because the
// decoded value may be incomplete.
func single[T any](r *mongo.SingleResult) (v T, err error) {
	raw, err := r.Raw()
	if err != nil {
		return v, err
	}
	if err := r.Decode(&v); err != nil {
		return *new(T), &DecodeError{raw, err}
	}
	return v, nil
}

// FindOne returns a document that matches the filter. Without one, the error matches
// mongo.ErrNoDocuments. A document that is not a T is a [*DecodeError].
func (c *Collection[T]) FindOne(ctx context.Context, filter any, opts ...options.Lister[options.FindOneOptions]) *eventloop.Future[T] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (T, error) {
		v, err := single[T](c.coll.FindOne(ctx, filter, opts...))
		return v, c.fail(ctx, "FindOne", err)
	})
}

// FindOneAndUpdate updates a document and returns its previous version, unless
// SetReturnDocument of the options selects the new one. See FindOne for errors.
func (c *Collection[T]) FindOneAndUpdate(ctx context.Context, filter, update any, opts ...options.Lister[options.FindOneAndUpdateOptions]) *eventloop.Future[T] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (T, error) {
		v, err := single[T](c.coll.FindOneAndUpdate(ctx, filter, update, opts...))
		return v, c.fail(ctx, "FindOneAndUpdate", err)
	})
}

// FindOneAndReplace replaces a document and returns the previous one, unless
// SetReturnDocument of the options selects the new one. See FindOne for errors.
func (c *Collection[T]) FindOneAndReplace(ctx context.Context, filter any, replacement T, opts ...options.Lister[options.FindOneAndReplaceOptions]) *eventloop.Future[T] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (T, error) {
		v, err := single[T](c.coll.FindOneAndReplace(ctx, filter, replacement, opts...))
		return v, c.fail(ctx, "FindOneAndReplace", err)
	})
}

// FindOneAndDelete deletes a document and returns it. See FindOne for errors.
func (c *Collection[T]) FindOneAndDelete(ctx context.Context, filter any, opts ...options.Lister[options.FindOneAndDeleteOptions]) *eventloop.Future[T] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (T, error) {
		v, err := single[T](c.coll.FindOneAndDelete(ctx, filter, opts...))
		return v, c.fail(ctx, "FindOneAndDelete", err)
	})
}

// InsertOne inserts a document.
func (c *Collection[T]) InsertOne(ctx context.Context, document T, opts ...options.Lister[options.InsertOneOptions]) *eventloop.Future[*mongo.InsertOneResult] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (*mongo.InsertOneResult, error) {
		v, err := c.coll.InsertOne(ctx, document, opts...)
		return v, c.fail(ctx, "InsertOne", err)
	})
}

// InsertMany inserts documents. If the server refuses some of them, the error wraps a
// mongo.BulkWriteException, and the result contains the IDs of the inserted documents.
func (c *Collection[T]) InsertMany(ctx context.Context, documents []T, opts ...options.Lister[options.InsertManyOptions]) *eventloop.Future[*mongo.InsertManyResult] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (*mongo.InsertManyResult, error) {
		v, err := c.coll.InsertMany(ctx, documents, opts...)
		return v, c.fail(ctx, "InsertMany", err)
	})
}

// UpdateOne updates a document.
func (c *Collection[T]) UpdateOne(ctx context.Context, filter, update any, opts ...options.Lister[options.UpdateOneOptions]) *eventloop.Future[*mongo.UpdateResult] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (*mongo.UpdateResult, error) {
		v, err := c.coll.UpdateOne(ctx, filter, update, opts...)
		return v, c.fail(ctx, "UpdateOne", err)
	})
}

// UpdateMany updates all documents that match the filter.
func (c *Collection[T]) UpdateMany(ctx context.Context, filter, update any, opts ...options.Lister[options.UpdateManyOptions]) *eventloop.Future[*mongo.UpdateResult] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (*mongo.UpdateResult, error) {
		v, err := c.coll.UpdateMany(ctx, filter, update, opts...)
		return v, c.fail(ctx, "UpdateMany", err)
	})
}

// ReplaceOne replaces a document.
func (c *Collection[T]) ReplaceOne(ctx context.Context, filter any, replacement T, opts ...options.Lister[options.ReplaceOptions]) *eventloop.Future[*mongo.UpdateResult] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (*mongo.UpdateResult, error) {
		v, err := c.coll.ReplaceOne(ctx, filter, replacement, opts...)
		return v, c.fail(ctx, "ReplaceOne", err)
	})
}

// DeleteOne deletes a document.
func (c *Collection[T]) DeleteOne(ctx context.Context, filter any, opts ...options.Lister[options.DeleteOneOptions]) *eventloop.Future[*mongo.DeleteResult] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (*mongo.DeleteResult, error) {
		v, err := c.coll.DeleteOne(ctx, filter, opts...)
		return v, c.fail(ctx, "DeleteOne", err)
	})
}

// DeleteMany deletes all documents that match the filter.
func (c *Collection[T]) DeleteMany(ctx context.Context, filter any, opts ...options.Lister[options.DeleteManyOptions]) *eventloop.Future[*mongo.DeleteResult] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (*mongo.DeleteResult, error) {
		v, err := c.coll.DeleteMany(ctx, filter, opts...)
		return v, c.fail(ctx, "DeleteMany", err)
	})
}

// CountDocuments counts the documents that match the filter.
func (c *Collection[T]) CountDocuments(ctx context.Context, filter any, opts ...options.Lister[options.CountOptions]) *eventloop.Future[int64] {
	return eventloop.WorkOn(ctx, c.client.workers, func(ctx context.Context) (int64, error) {
		v, err := c.coll.CountDocuments(ctx, filter, opts...)
		return v, c.fail(ctx, "CountDocuments", err)
	})
}
