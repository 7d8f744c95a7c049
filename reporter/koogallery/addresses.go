package koogallery

import (
	"fmt"
	"net/url"
)

// Addresses returns the base addresses, such as https://mkt.myhuaweicloud.com, that a client with these options would
// call, the one to fall back to second. It serves checks of whether they can be reached; keys need not be set.
func (o Options) Addresses() ([]string, error) {
	endpoints, err := o.endpoints()
	if err != nil {
		return nil, err
	}
	addresses := make([]string, 0, len(endpoints))
	for _, e := range endpoints {
		u, err := url.Parse(e.url)
		if err != nil {
			return nil, fmt.Errorf("koogallery.base_url: %w", err)
		}
		addresses = append(addresses, u.Scheme+"://"+u.Host)
	}
	return addresses, nil
}
