// Package drakma sends HTTP requests in the manner of Drakma, the HTTP client of Common Lisp:
// requests with everything that applications want, over the HTTP client of an event loop.
//
//	d := drakma.New(l, drakma.Options{Jar: drakma.NewJar(), Retry: drakma.Retry{Max: 3}})
//	d.Get(ctx, "https://example.org/search").Query("q", "x").Text().Then(func(text string, err error) {
//		fmt.Println(text, err)
//	})
//
// A method of [Client] begins a request, methods of [Request] add to it, and one of them
// sends it and returns a future: [Request.Do] of the response, [Request.Text] of its text in
// UTF-8, [Request.Bytes] of its bytes, [Request.Into] of a decoded JSON document,
// [Request.Save] when the body is in a file, [Request.Stream] when a callback has got all of it.
//
// # Where code runs
//
// All methods may be called from any goroutine and from any callback. None of them blocks,
// except that [Request.JSON] encodes at once. Futures call back on the loop, as all futures of
// the loop do. Files are read and written on goroutines of the client's own, and large
// documents are decoded by functions of [eventloop.Work]. One [Request] is for one goroutine at a time.
//
// # Errors
//
// Each failure is reported once, by the future: mistakes in the request ([ErrSent], invalid
// URLs and fields), errors of the connection and of HTTP ([*eventloop.OpError], see
// [eventloop.HTTPClient.Do]), [*StatusError], [*CharsetError], [*DecodeError],
// [*ChallengeError], [ErrFileChanged], errors of files, [eventloop.ErrHTTPRedirects], the
// cause of the context. The errors that concern a response contain it, with its body.
//
// A panic in code of the application is an error of the future too, a
// [*eventloop.PanicError]: in UnmarshalJSON of what [Request.Into] decodes, in Write of
// Options.Log, in Read and Close of a body. A panic in the callback of [Request.Stream] is one
// in a callback of the loop: it leaves Run unless [eventloop.Config].CatchPanics is set.
//
// # Redirects, retries and authorization
//
// One request of the application may become several on the network: see
// [Response.Attempts]. Each is a request of its own for the HTTP client of the loop: it uses
// kept connections, and cookies of the jar are stored after each. Only bodies that can be sent
// again are: all but those of [Request.Body] and [Reader].
//
// With a Retry, with digest authorization, and in Save and Stream, the head of a response
// decides what is done with it. The body of one that is not the result is read for a second,
// and up to 256 KB if its length is known, so that its connection can be used again; then it
// is given up. Other requests read the body first: a redirect with a body over
// [eventloop.HTTPClientConfig].MaxBodyBytes is an error then.
//
// Credentials, that is Authorization, Cookie and Proxy-Authorization fields, the field Host and
// the answers to challenges, go to the scheme, host and port of the request's URL alone,
// wherever a redirect leads; those of [Options].Headers to those of the BaseURL, if there is
// one. Cookies of a jar go where the jar says.
//
// # Lifetime
//
// A pending request keeps the loop alive, also while it waits for a retry. When the loop ends
// by force its future fails with [eventloop.ErrLoopClosed], a temporary file of [Request.Save] is
// removed, and a body that was not sent is closed. A client with pending requests is a handle
// of the loop, of the kind "drakma"; an idle client holds nothing.
//
// # What is left out
//
// HTTP/2 (set [eventloop.HTTPClientConfig].Transport of the Client), caching, resuming a
// download in a later request (use [Request.Range]), answering challenges of proxies, and
// checking the field rspauth of digest authorization.
package drakma
