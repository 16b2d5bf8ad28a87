/* The switch and the rollback of one tenant between two cells, with everything that may come between: crashes, lost
 * leases, lost answers, lapsing fences, a gate out of patience, a cancel, damage in transit. model/README.md maps each
 * step to the code, names the bounds and says what is left out. `make model` checks it.
 *
 * Every d_step is one request to one server, and takes effect at once or not at all. Between any two of them a worker
 * may die, or stand still for as long as it likes: a stopped process is one that is not chosen to go on. */

/* ---- bounds ------------------------------------------------------------------------------------------------------ */
#ifndef CLIENTS
#define CLIENTS 2       /* writes in all, of any kind, at any time, in any cell */
#endif
#ifndef CRASHES
#define CRASHES 1       /* kill -9 of a worker; a new one starts in its place */
#endif
#ifndef EXPIRIES
#define EXPIRIES 1      /* leases that run out while their holder lives (stopped, or cut off from the registry) */
#endif
#ifndef ERRORS
#define ERRORS 0        /* requests of a hold that fail or time out before the placement changes */
#endif
#ifndef CANCELS
#define CANCELS 0       /* `tenure op cancel` */
#endif
#ifndef ANSWERS
#define ANSWERS 0       /* answers to the placement's change that get lost */
#endif
#ifndef DAMAGES
#define DAMAGES 0       /* changes that the feed drops and says nothing */
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2      /* SWITCH_ATTEMPTS */
#endif
#ifndef OPERATIONS
#define OPERATIONS 2    /* 1: a migration, 2: its rollback as well */
#endif
#define CALM (CRASHES + EXPIRIES + ERRORS + CANCELS + ANSWERS + DAMAGES == 0)

/* ---- the order inside the hold: which action stands in which place ------------------------------------------------- */
#ifndef HOLD
#define HOLD 0
#endif
#ifndef DRAIN
#define DRAIN 1
#endif
#ifndef FENCE_P
#define FENCE_P 2
#endif
#ifndef MARK_P
#define MARK_P 3
#endif
#ifndef FENCE_O
#define FENCE_O 4
#endif
#ifndef MARK_O
#define MARK_O 5
#endif
#ifndef SEAL_P
#define SEAL_P 6
#endif
#ifndef SEAL_O
#define SEAL_O 7
#endif
#ifndef COMPARE
#define COMPARE 8
#endif
#ifndef CLOSE
#define CLOSE 9
#endif
#ifndef COMMIT
#define COMMIT 10
#endif
#ifndef OPEN_P
#define OPEN_P 11
#endif
#ifndef OPEN_O
#define OPEN_O 12
#endif
#ifndef RELEASE
#define RELEASE 13
#endif
#define ALL 14
#define FORWARD 11      /* the first place after COMMIT */

/* ---- state ------------------------------------------------------------------------------------------------------- */
#define A 0
#define B 1
#define P 0             /* the store whose fence drains, lifts itself and remembers tokens for good */
#define O 1             /* the store whose fence does neither */
#define at(c, s) ((c) * 2 + (s))

#define OPENED 0        /* fences */
#define EXPIRING 1
#define LAPSED 2
#define CLOSED 3

byte fence[4];          /* per cell and store */
byte newest[4];         /* the greatest token that the store knows */
byte data[4];           /* writes as bits */
byte feed[4];           /* accepted here from users, not yet in the other cell; what the feed brought is not sent back */
byte permits[2];        /* open transactions in P */
byte passing[2];        /* requests that the gate has let through to the cell */
byte acked[2];          /* per store */
bool linked = true;
bool feeding = true;

bool held;              /* the gate */
byte routed = A;
byte fallback = A;
byte gate_newest;

#define SWITCH 0        /* the registry */
#define SETTLE 1
#define ABORT 2
byte place = A;
byte epoch = 1;
byte op = 1;            /* 1: migrate A to B, 2: rollback B to A */
byte step = SWITCH;
byte token;             /* of the step's last claim */
byte attempt;
byte holder;
bool running;
bool gone;              /* its holder is dead, or has given the lease up: nobody extends it */
bool aborting;
bool committed;
bool cancelled;
bool over;

byte late_token;        /* a change of the placement that is still on its way, its answer given up */
byte late_epoch;

byte crashes = CRASHES;
byte expiries = EXPIRIES;
byte errors = ERRORS;
byte cancels = CANCELS;
byte answers = ANSWERS;
byte damages = DAMAGES;
bool disturbed = !(CALM);   /* something has gone wrong so far: users may notice */
byte begun = 1;         /* the client whose turn it is to begin */
bool first_idle = true;
byte rested;            /* workers that have nothing left to do */

/* ---- properties: each is true in every state, or pan names the one that is not ------------------------------------- */
bool one_writer = true;     /* invariant 1 */
bool nothing_lost = true;   /* invariant 2 */
bool no_return = true;      /* invariant 3 */
bool ends_well = true;      /* invariant 7, with the absence of deadlocks and of cycles */
bool served = true;         /* an undisturbed switch refuses nobody and needs one attempt */
bool lifts_itself = true;   /* while the hold waits or reads, the source would open by itself if all workers died */

#define accepts(c, s) (fence[at(c, s)] == OPENED || fence[at(c, s)] == LAPSED)
#define writable(c, s) (accepts(c, s) || ((s) == P && permits[c] > 0))
#define check() \
  one_writer = !linked || !((writable(A, P) && writable(B, P)) || (writable(A, O) && writable(B, O))); \
  assert(one_writer); \
  no_return = !linked || !(writable(1 - place, P) || writable(1 - place, O)); \
  assert(no_return); \
  nothing_lost = !(acked[P] & ~data[at(place, P)]) && !(acked[O] & ~data[at(place, O)]); \
  assert(nothing_lost)
/* O is not looked at while somebody who slept through the abort may be about to open it again. */
#ifdef ANY_END
#define final(o_too) skip
#else
#define final(o_too) \
  ends_well = accepts(place, P) && (accepts(place, O) || !(o_too)) && routed == place && !held \
    && (!linked || (fence[at(1 - place, P)] == CLOSED && fence[at(1 - place, O)] == CLOSED)); \
  assert(ends_well)
#endif

/* ---- users ------------------------------------------------------------------------------------------------------- */
#define reaches(c) (linked || (c) == place)     /* without a link no fence is left: only the routing decides */
#define takes(c, s) (accepts(c, s) && reaches(c))
#define refuse(unfair) served = disturbed || !(unfair); assert(served)
#define write(c, s) data[at(c, s)] = data[at(c, s)] | w
#define follow(c, s) feed[at(c, s)] = feed[at(c, s)] | (feeding -> w : 0)
#define acknowledge(c, s) acked[s] = acked[s] | w; check()
#define leave() permits[c]--; passing[c] = passing[c] - gated

/* One write: through the gateway, or past it (jobs, webhooks, stale routes) in whatever cell lets it. All clients are
 * alike, so they begin in the order of their bits. */
proctype Client(byte w) {
  byte c;
  bit gated, whole;       /* came through the gateway; came when all of the cell was open */
end:
  if
#if CALM
  :: atomic { begun == w && !held -> begun = w << 1; gated = 1; c = routed; passing[c]++ };
    if
    :: d_step { takes(c, P) -> permits[c]++; whole = 1 }
    :: d_step { takes(c, O) -> write(c, O); follow(c, O); passing[c]--; acknowledge(c, O) }; goto done
    :: d_step { !takes(c, P) || !takes(c, O) -> passing[c]--; refuse(true) }; goto done
    fi
#endif
  :: d_step { begun == w && takes(A, P) -> begun = w << 1; c = A; permits[c]++; whole = CALM && accepts(A, O) }
  :: d_step { begun == w && takes(B, P) -> begun = w << 1; c = B; permits[c]++; whole = CALM && accepts(B, O) }
  :: d_step { begun == w && takes(A, O) -> begun = w << 1; write(A, O); follow(A, O); acknowledge(A, O) }; goto done
  :: d_step { begun == w && takes(B, O) -> begun = w << 1; write(B, O); follow(B, O); acknowledge(B, O) }; goto done
  fi;
  if    /* a transaction in P is open: it writes there, or to O with a journal row of its own */
  :: d_step { write(c, P); follow(c, P); leave(); acknowledge(c, P) }
  :: d_step { accepts(c, O) -> write(c, O) };
     d_step { follow(c, O); leave(); acknowledge(c, O) }
  :: d_step { !accepts(c, O) -> leave(); refuse(whole) }
  fi;
done:
  skip
}

/* ---- what happens by itself ---------------------------------------------------------------------------------------- */
#define arrives(i, w) \
  :: d_step { feeding && (feed[i] & (w)) -> feed[i] = feed[i] & ~(w); data[(i) ^ 2] = data[(i) ^ 2] | (w) } \
  :: d_step { damages > 0 && (feed[i] & (w)) -> damages--; feed[i] = feed[i] & ~(w) }
#define may_commit(t, e) \
  (LEASE_CHECKED(t) && !aborting && !cancelled && !committed && epoch == (e))
#define change_place() place = 1 - place; epoch++; committed = true; check()
#ifdef COMMIT_WITHOUT_LEASE
#define LEASE_CHECKED(t) (step == SWITCH)
#else
#define LEASE_CHECKED(t) (running && token == (t))
#endif

proctype World() {
end:
  do
  arrives(0, 1) arrives(1, 1) arrives(2, 1) arrives(3, 1)
  arrives(0, 2) arrives(1, 2) arrives(2, 2) arrives(3, 2)
#if CLIENTS > 2
  arrives(0, 4) arrives(1, 4) arrives(2, 4) arrives(3, 4)
#endif
  :: d_step { fence[at(A, P)] == EXPIRING -> fence[at(A, P)] = LAPSED; disturbed = true; check() }
  :: d_step { fence[at(B, P)] == EXPIRING -> fence[at(B, P)] = LAPSED; disturbed = true; check() }
  :: d_step { held && fence[at(fallback, P)] != EXPIRING -> held = false; routed = fallback; disturbed = true }
  :: d_step { cancels > 0 && !committed && !aborting && !over -> cancels--; cancelled = true }
  :: d_step { late_token && may_commit(late_token, late_epoch) -> late_token = 0; change_place() }
  :: d_step { late_token && !may_commit(late_token, late_epoch) -> late_token = 0 }
  od
}

/* ---- workers ------------------------------------------------------------------------------------------------------- */
/* A process that has crashed or is idle remembers nothing: of two idle ones it does not matter which goes on. */
#ifdef NO_TAKEOVER
#define to_be_had (!running)
#else
#define to_be_had (!running || gone || (expiries > 0 && holder != _pid))
#endif
#define may_take (!over && (_pid == FIRST || !first_idle) && to_be_had)
#define FIRST 2
#define rest() \
  t = 0; src = 0; tgt = 0; e = 0; need_p = 0; need_o = 0; again = false; refused = false; next = 0; \
  first_idle = first_idle || _pid == FIRST; goto idle
#define mine (running && token == t)
#ifdef NO_TOKEN_IN
#define knows(c, s) ((s) == NO_TOKEN_IN || t >= newest[at(c, s)])
#else
#define knows(c, s) (t >= newest[at(c, s)])
#endif
#define remember(c, s) newest[at(c, s)] = t
#define can(a) (next == (a))
#define used_up (next > HOLD && !held)    /* the hold's clock: it ends before the gate's budget does */

#define or_crash \
  :: atomic { crashes > 0 -> crashes--; gone = gone || mine; rest() }
#define request(c, s, effect, refused) \
  if \
  :: d_step { knows(c, s) -> remember(c, s); effect; check() } \
  :: !knows(c, s) -> goto refused \
  or_crash \
  fi
#define request_or_go_on(c, s, effect) \
  if \
  :: d_step { knows(c, s) -> remember(c, s); effect; check() } \
  :: !knows(c, s) \
  or_crash \
  fi
#define ask_gate(effect) \
  if \
  :: d_step { t >= gate_newest -> gate_newest = t; effect } \
  :: t < gate_newest \
  or_crash \
  fi
#define does(a, guard, effect) :: d_step { can(a) && (guard) -> effect; next++; check() }
#define fails(a, guard) :: atomic { can(a) && (guard) -> goto failed }
#define self_lifting() \
  lifts_itself = !(fence[at(src, P)] == CLOSED && newest[at(src, P)] == t); assert(lifts_itself)
#define same(s) (data[at(src, s)] == data[at(tgt, s)])
#ifdef WITHOUT_COMPARING
#define equal true
#else
#define equal (same(P) && same(O))
#endif
#ifdef WITHOUT_DRAINING
#define drained(c) true
#else
#define drained(c) (permits[c] == 0)
#endif
#ifdef O_KEEPS_TOKENS
#define forget(c)
#else
#define forget(c) newest[at(c, O)] = 0
#endif

#ifdef LEFT_TO_NEWER_HOLDER
#define reopens_o (knows(src, P) && knows(src, O))
#else
#define reopens_o knows(src, O)
#endif
#ifdef ASKS_FOR_EVER
#define when_refused goto failed
#else
#define when_refused skip
#endif
#define back_out() \
  request_or_go_on(src, P, fence[at(src, P)] = OPENED); \
  if \
  :: d_step { reopens_o -> remember(src, O); fence[at(src, O)] = OPENED; check() } \
  :: !(reopens_o) -> when_refused \
  or_crash \
  fi; \
  ask_gate(held = false; routed = src)

proctype Worker() {
  byte t, src, tgt, e;
  byte need_p, need_o;
  bool again, refused;
  byte next;

idle:
  if
  :: d_step {   /* claim: pending, or of a dead holder, or its lease has run out */
       may_take && (aborting || committed || !cancelled) ->
       if
       :: running && !gone -> expiries--
       :: else
       fi;
       again = running || attempt > 0;
       running = true; gone = false; holder = _pid; attempt++; token++; t = token;
       src = op - 1; tgt = 2 - op; first_idle = first_idle && _pid != FIRST };
  :: atomic {   /* a cancel of what nobody runs */
       may_take && cancelled && !committed && !aborting ->
       if
       :: running && !gone -> expiries--
       :: else
       fi;
       aborting = true; step = ABORT; running = false; gone = false; attempt = 0; token++; goto idle }
  :: over -> goto done
  fi;
  if
  :: atomic { !mine -> rest() }
  :: atomic { mine && step == SETTLE -> goto settling }
  :: atomic { mine && step == ABORT -> goto abort }
  :: mine && step == SWITCH && place != tgt -> e = epoch
  :: atomic { mine && step == SWITCH && place == tgt -> goto finish_interrupted }
  or_crash
  fi;

  /* ---- the step `switch` ---- */
  if
  :: again -> back_out()
  :: else
  fi;
  request(tgt, P, fence[at(tgt, P)] = CLOSED, dropped);
  request(tgt, O, fence[at(tgt, O)] = CLOSED, dropped);
  if
  :: d_step { t >= gate_newest -> gate_newest = t; routed = src }
  :: t < gate_newest -> goto dropped
  or_crash
  fi;
  request(src, P, skip, dropped);
  request(src, O, skip, dropped);
  d_step { data[at(tgt, P)] = data[at(tgt, P)] | (data[at(src, P)] & ~feed[at(src, P)]);
           data[at(tgt, O)] = data[at(tgt, O)] | (data[at(src, O)] & ~feed[at(src, O)]) };

hold:
  do
  :: atomic { next == ALL -> break }
  or_crash
  :: atomic { errors > 0 && next <= COMMIT -> errors--; goto failed }
  does(HOLD, t >= gate_newest, gate_newest = t; held = true; fallback = src)
  fails(HOLD, t < gate_newest)
  does(DRAIN, passing[src] == 0 && !used_up, skip)
  fails(DRAIN, used_up)
  does(FENCE_P, knows(src, P) && drained(src) && !used_up, remember(src, P); fence[at(src, P)] = EXPIRING)
  fails(FENCE_P, !knows(src, P) || used_up)
  does(FENCE_O, knows(src, O), remember(src, O); fence[at(src, O)] = CLOSED)
  fails(FENCE_O, !knows(src, O))
  does(MARK_P, true, need_p = feed[at(src, P)])
  does(MARK_O, true, need_o = feed[at(src, O)])
  fails(SEAL_P, !feeding)
  fails(SEAL_O, !feeding)
  does(SEAL_P, !(feed[at(src, P)] & need_p), self_lifting())
  does(SEAL_O, !(feed[at(src, O)] & need_o), self_lifting())
  does(COMPARE, equal, self_lifting())
  fails(COMPARE, !(equal))
  does(CLOSE, knows(src, P) && fence[at(src, P)] != LAPSED && drained(src), remember(src, P); fence[at(src, P)] = CLOSED)
  fails(CLOSE, !knows(src, P) || fence[at(src, P)] == LAPSED || used_up)
  does(COMMIT, may_commit(t, e), change_place())
  fails(COMMIT, !may_commit(t, e))
  :: d_step { can(COMMIT) && answers > 0 && may_commit(t, e) -> answers--; change_place() };
     goto decide
  :: d_step { can(COMMIT) && answers > 0 -> answers--; late_token = t; late_epoch = e };
     goto decide
  does(OPEN_P, knows(tgt, P), remember(tgt, P); fence[at(tgt, P)] = OPENED)
  does(OPEN_P, !knows(tgt, P), refused = true)
  does(OPEN_O, knows(tgt, O), remember(tgt, O); fence[at(tgt, O)] = OPENED)
  does(OPEN_O, !knows(tgt, O), refused = true)
  does(RELEASE, !refused && t >= gate_newest,
       gate_newest = t; held = false; routed = tgt;
       served = disturbed || (accepts(tgt, P) && accepts(tgt, O)); assert(served))
  :: atomic { can(RELEASE) && (refused || t < gate_newest) -> goto dropped }
  od;
  if
  :: atomic { mine -> running = false; step = SETTLE; attempt = 0; rest() }
  :: atomic { !mine -> rest() }
  or_crash
  fi;

decide:         /* the answer was lost: shut the lost request out by a new token, then ask */
  if
#ifdef DECIDE_BY_READING
  :: atomic { committed -> next = FORWARD; goto hold }
  :: atomic { !committed -> goto failed }
#else
  :: atomic { mine -> token++; t = token;
       if
       :: committed -> next = FORWARD
       :: else
       fi;
       goto hold }
  :: atomic { mine && answers > 0 -> answers--; token++; gone = true }   /* exchanged, and that answer is lost as well */
#ifdef LOST_LEASE_BACKS_OUT
  :: atomic { !mine -> goto failed }
#else
  :: atomic { !mine -> rest() }         /* CommitUndecided: both stay closed, the next holder finds out */
#endif
#endif
  or_crash
  fi;
  goto decide;

failed:
  atomic { served = disturbed; assert(served) };
  back_out();
  if
  :: atomic { mine -> running = false;
       if
       :: cancelled || attempt >= ATTEMPTS -> aborting = true; step = ABORT; attempt = 0
       :: else
       fi;
       rest() }
  :: atomic { !mine -> rest() }
  or_crash
  fi;

finish_interrupted:
  request(src, P, fence[at(src, P)] = CLOSED, dropped);
  request(src, O, fence[at(src, O)] = CLOSED, dropped);
  next = FORWARD;
  goto hold;

  /* ---- the step `settle` ---- */
settling:
  request(src, P, fence[at(src, P)] = CLOSED, dropped);
  request(src, O, fence[at(src, O)] = CLOSED, dropped);
  if
  :: d_step { t >= gate_newest -> gate_newest = t; routed = tgt }
  :: t < gate_newest -> goto dropped
  or_crash
  fi;
  d_step { data[at(src, P)] = data[at(src, P)] | (data[at(tgt, P)] & ~feed[at(tgt, P)]);
           data[at(src, O)] = data[at(src, O)] | (data[at(tgt, O)] & ~feed[at(tgt, O)]) };
conclude:
  if
  :: atomic { mine -> final(linked);
       running = false; attempt = 0;
       if
       :: op < OPERATIONS && !aborting -> op = 2; step = SWITCH; committed = false; cancelled = false
       :: else -> over = true
       fi;
       rest() }
  :: atomic { !mine -> rest() }
  or_crash
  fi;

  /* ---- the abort ---- */
abort:
  back_out();
  if
  :: atomic { op == 2 && mine -> goto conclude }    /* a rollback keeps the link */
  :: op == 1 && mine                                /* require_lease */
  :: atomic { !mine -> rest() }
  or_crash
  fi;
  request(src, P, skip, dropped);
  request(tgt, P, feeding = false; feed[0] = 0; feed[1] = 0; feed[2] = 0; feed[3] = 0, dropped);
  request(src, O, forget(src), dropped);
  if
  :: mine && place == src
  :: atomic { !(mine && place == src) -> rest() }
  or_crash
  fi;
  request(tgt, P, fence[at(tgt, P)] = CLOSED, dropped);
  request(tgt, O, fence[at(tgt, O)] = CLOSED, dropped);
  if
  :: mine && place == src
  :: atomic { !(mine && place == src) -> rest() }
  or_crash
  fi;
  request(tgt, P, data[at(tgt, P)] = 0, dropped);
  request(tgt, O, data[at(tgt, O)] = 0, dropped);
  request(tgt, P, linked = false; fence[at(tgt, P)] = OPENED, dropped);
  request(tgt, O, fence[at(tgt, O)] = OPENED; forget(tgt), dropped);
  goto conclude;

dropped:        /* a store or the gate refused the token: nobody refuses the present holder */
  atomic { ends_well = !mine; assert(ends_well); rest() };

done:           /* when everybody has come to rest, what was true at the end still is */
  atomic {
    rested++;
    if
    :: rested == 2 && !late_token -> final(true)
    :: else
    fi }
}

init {
  atomic {
    fence[at(B, P)] = CLOSED;
    fence[at(B, O)] = CLOSED;
    run World();
    run Worker();
    run Worker();
    run Client(1);
#if CLIENTS > 1
    run Client(2);
#endif
#if CLIENTS > 2
    run Client(4);
#endif
  }
}
