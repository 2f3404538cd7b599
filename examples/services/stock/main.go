// Stock counts what is left of each item, one replica of several: each counts the items whose keys it is given.
package main

import (
	"encoding/json"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

const full = 1_000_000 // what every item starts with

type shelf struct {
	sync.Mutex
	taken map[string]int
}

// take removes quantity of item and says how much is left and whether there was enough.
func (s *shelf) take(item string, quantity int) (int, bool) {
	s.Lock()
	defer s.Unlock()
	if len(s.taken) > 100_000 {
		s.taken = map[string]int{} // a demo forgets rather than grows
	}
	if s.taken[item]+quantity > full {
		return full - s.taken[item], false
	}
	if quantity > 0 {
		s.taken[item] += quantity
	}
	return full - s.taken[item], true
}

func say(w http.ResponseWriter, status int, value any) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

func main() {
	replica := or(os.Getenv("REPLICA"), "stock")
	goods := &shelf{taken: map[string]int{}}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	http.HandleFunc("/items/", func(w http.ResponseWriter, r *http.Request) {
		item, verb, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/items/"), "/")
		wanted := struct{ Quantity int }{}
		switch {
		case item == "" || (verb != "" && verb != "reserve"):
			say(w, 404, map[string]string{"error": "GET /items/NAME or POST /items/NAME/reserve"})
			return
		case (verb == "") != (r.Method == "GET") || (verb == "reserve") != (r.Method == "POST"):
			say(w, 405, map[string]string{"error": "GET /items/NAME or POST /items/NAME/reserve"})
			return
		case verb == "reserve" && (json.NewDecoder(r.Body).Decode(&wanted) != nil || wanted.Quantity < 1):
			say(w, 400, map[string]string{"error": `send {"quantity": 1}`})
			return
		}
		left, enough := goods.take(item, wanted.Quantity)
		status := map[bool]int{true: 200, false: 409}[enough]
		say(w, status, map[string]any{"item": item, "left": left, "replica": replica,
			"principal": r.Header.Get("flui-principal"), "roles": r.Header.Get("flui-roles")})
	})
	listener, err := net.Listen("tcp", or(os.Getenv("HOST"), "127.0.0.1")+":"+or(os.Getenv("PORT"), "8000"))
	if err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() { <-stop; os.Exit(0) }()
	log.Printf("stock: %s: http://%s", replica, listener.Addr())
	log.Fatal((&http.Server{ReadHeaderTimeout: 10 * time.Second}).Serve(listener))
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
