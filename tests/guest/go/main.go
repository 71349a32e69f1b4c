// A web server and a client, on Go's own runtime: a static binary that makes its system calls itself.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	workers  = 32
	requests = 20
	size     = 100_000
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: goweb serve|fetch ADDRESS PORT")
		os.Exit(2)
	}
	address := net.JoinHostPort(os.Args[2], os.Args[3])
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(address)
	case "fetch":
		err = fetch(address)
	default:
		err = fmt.Errorf("unknown command %s", os.Args[1])
	}
	if err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
}

func page() []byte { return bytes.Repeat([]byte("g"), size) }

func serve(address string) error {
	body := page()
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		length, _ := io.Copy(io.Discard, request.Body)
		answer.Header().Set("X-Length", strconv.FormatInt(length, 10))
		_, _ = answer.Write(body)
	})
	http.HandleFunc("/slow", func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Second) })
	return http.ListenAndServe(address, nil)
}

func fetch(address string) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	failures := make(chan error, workers)
	var all sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for request := 0; request < requests; request++ {
				if err := once(client, address); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	all.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return err
	}
	// A deadline cancels a request that is under way: the connection is closed from another thread.
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/slow", nil)
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err = client.Do(request); err == nil {
		return fmt.Errorf("a request past its deadline was answered")
	}
	if took := time.Since(start); took > 2*time.Second {
		return fmt.Errorf("a deadline of 0.2 s took %v", took)
	}
	// A read deadline on a bare connection.
	connection, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err = connection.Read(make([]byte, 1)); err == nil || !err.(net.Error).Timeout() {
		return fmt.Errorf("a read past its deadline: %v", err)
	}
	fmt.Printf("%d requests were answered\n", workers*requests)
	return nil
}

func once(client *http.Client, address string) error {
	answer, err := client.Post("http://"+address+"/", "text/plain", bytes.NewReader(make([]byte, 5000)))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if !bytes.Equal(body, page()) || answer.Header.Get("X-Length") != "5000" {
		return fmt.Errorf("a wrong answer: %d bytes, X-Length %s", len(body), answer.Header.Get("X-Length"))
	}
	return nil
}
