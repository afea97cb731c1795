# Ends what is left of an engine once the pipe at its input closes: sh guard.sh VARIABLE=VALUE, which all its processes
# have in their environment. Looks again, as one may have started another meanwhile, but not for ever: some cannot die.
read -r line
for round in 1 2 3 4 5 6 7 8 9 10; do
  left=$(grep -lszxF "$1" /proc/[0-9]*/environ | cut -d / -f 3)
  [ "$left" ] || break
  kill -s KILL $left
  sleep 0.2
done
