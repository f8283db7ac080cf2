cd /tmp/try
cat <<'XEOF'
$ walnut run --rm oci-archive:busybox.tar echo hello
XEOF
walnut run --rm oci-archive:busybox.tar echo hello
echo
cat <<'XEOF'
$ walnut run --rm --memory 256m --cpus 2 oci-archive:busybox.tar sh -c 'uname -r; nproc; free -m | head -2'
XEOF
walnut run --rm --memory 256m --cpus 2 oci-archive:busybox.tar sh -c 'uname -r; nproc; free -m | head -2'
echo
cat <<'XEOF'
$ walnut run --rm -v "$PWD":/work -w /work -e A=b -u 1000:1000 oci-archive:busybox.tar ./script.sh
XEOF
walnut run --rm -v "$PWD":/work -w /work -e A=b -u 1000:1000 oci-archive:busybox.tar ./script.sh
echo
cat <<'XEOF'
$ tar c . | walnut run --rm -i oci-archive:busybox.tar tar t
XEOF
tar c . | walnut run --rm -i oci-archive:busybox.tar tar t
echo
cat <<'XEOF'
$ walnut run --rm oci-archive:busybox.tar sh -c 'exit 7'; echo $?
XEOF
walnut run --rm oci-archive:busybox.tar sh -c 'exit 7'; echo $?
echo
cat <<'XEOF'
$ walnut run --rm oci-archive:busybox.tar nosuch; echo $?
XEOF
walnut run --rm oci-archive:busybox.tar nosuch; echo $?
echo
cat <<'XEOF'
$ walnut template ls
XEOF
walnut template ls
echo
cat <<'XEOF'
$ walnut run --rm --timings oci-archive:busybox.tar true
XEOF
walnut run --rm --timings oci-archive:busybox.tar true
echo
cat <<'XEOF'
$ walnut load -i busybox.tar && walnut tag latest busybox && walnut rmi latest
XEOF
walnut load -i busybox.tar && walnut tag latest busybox && walnut rmi latest
echo
cat <<'XEOF'
$ walnut run --rm -v pages:/www busybox sh -c 'echo hello > /www/index.html'
XEOF
walnut run --rm -v pages:/www busybox sh -c 'echo hello > /www/index.html'
echo
cat <<'XEOF'
$ walnut run -d --name web -p 8080:80 -v pages:/www --health-cmd 'wget -qO /dev/null http://127.0.0.1/' \
    --health-interval 1s busybox sh -c 'httpd -f -h /www'
XEOF
walnut run -d --name web -p 8080:80 -v pages:/www --health-cmd 'wget -qO /dev/null http://127.0.0.1/' \
    --health-interval 1s busybox sh -c 'httpd -f -h /www'
echo
cat <<'XEOF'
$ wget -qO - http://127.0.0.1:8080/
XEOF
wget -qO - http://127.0.0.1:8080/
echo
cat <<'XEOF'
$ walnut ps
XEOF
walnut ps
echo
cat <<'XEOF'
$ walnut cp note web:/root/ && walnut exec web sh -c 'cat /root/note; rm /etc/passwd'
XEOF
walnut cp note web:/root/ && walnut exec web sh -c 'cat /root/note; rm /etc/passwd'
echo
cat <<'XEOF'
$ walnut diff web
XEOF
walnut diff web
echo
cat <<'XEOF'
$ walnut commit web web:changed && walnut run --rm web:changed ls /root
XEOF
walnut commit web web:changed && walnut run --rm web:changed ls /root
echo
cat <<'XEOF'
$ walnut run --rm --vm web busybox sh -c 'hostname; ps'
XEOF
walnut run --rm --vm web busybox sh -c 'hostname; ps'
echo
cat <<'XEOF'
$ walnut run --rm --network container:web busybox wget -qO - http://127.0.0.1/
XEOF
walnut run --rm --network container:web busybox wget -qO - http://127.0.0.1/
echo
cat <<'XEOF'
$ walnut network create backend
XEOF
walnut network create backend
echo
cat <<'XEOF'
$ walnut run -d --network backend --name db --network-alias store busybox nc -ll -p 5432 -e date
XEOF
walnut run -d --network backend --name db --network-alias store busybox nc -ll -p 5432 -e date
echo
cat <<'XEOF'
$ walnut run --rm --network backend busybox nc store 5432
XEOF
walnut run --rm --network backend busybox nc store 5432
echo
cat <<'XEOF'
$ walnut network connect backend web
XEOF
walnut network connect backend web
echo
cat <<'XEOF'
$ walnut exec web nc store 5432
XEOF
walnut exec web nc store 5432
echo
cat <<'XEOF'
$ walnut network disconnect backend web
XEOF
walnut network disconnect backend web
echo
cat <<'XEOF'
$ walnut run --rm --egress deny busybox nc -w 5 192.0.2.1 80
XEOF
walnut run --rm --egress deny busybox nc -w 5 192.0.2.1 80
echo
cat <<'XEOF'
$ walnut stats --no-stream
XEOF
walnut stats --no-stream
echo
cat <<'XEOF'
$ walnut stop -t 1 web
XEOF
walnut stop -t 1 web
echo
cat <<'XEOF'
$ walnut run -d --name warm busybox sh -c 'n=0; while sleep 1; do n=$((n+1)); echo $n; done'
XEOF
walnut run -d --name warm busybox sh -c 'n=0; while sleep 1; do n=$((n+1)); echo $n; done'
echo
cat <<'XEOF'
$ walnut checkpoint create warm before-lunch && walnut logs -n 1 warm
XEOF
walnut checkpoint create warm before-lunch && walnut logs -n 1 warm
echo
cat <<'XEOF'
$ walnut checkpoint ls warm
XEOF
walnut checkpoint ls warm
echo
cat <<'XEOF'
$ walnut start --checkpoint before-lunch warm && sleep 2 && walnut logs -n 2 warm
XEOF
walnut start --checkpoint before-lunch warm && sleep 2 && walnut logs -n 2 warm
echo
cat <<'XEOF'
$ walnut clone --count 2 warm
XEOF
walnut clone --count 2 warm
echo
cat <<'XEOF'
$ walnut logs -n 1 5b803ba8ce21
XEOF
walnut logs -n 1 5b803ba8ce21
echo
cat <<'XEOF'
$ walnut events --since 1h --until 0s --filter container=web --filter event=start --filter event=health_status \
    --filter event=kill --filter event=die --filter event=stop --format '{{.Action}}'
XEOF
walnut events --since 1h --until 0s --filter container=web --filter event=start --filter event=health_status \
    --filter event=kill --filter event=die --filter event=stop --format '{{.Action}}'
echo
cat <<'XEOF'
$ walnut system df
XEOF
walnut system df
echo
cat <<'XEOF'
$ walnut doctor
XEOF
walnut doctor
echo
