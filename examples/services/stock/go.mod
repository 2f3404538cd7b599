module stock

go 1.21
