module netgraft.test/goweb

go 1.19
