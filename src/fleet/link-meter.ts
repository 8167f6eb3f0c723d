/**
 * Counts the round trips that a connection's client had to wait for.
 *
 * Counting requests and answers over-counts: a pipelined flight is many of each and costs one round trip. What a
 * client waits for is a chain: bytes that were sent only after an answer, which was sent only after bytes, and so
 * on. So bytes carry a level, as a logical clock does (Lamport, 1978). What the client sends is one above the
 * highest answer delivered to it; what the server sends is at the level of what has reached it. The highest level
 * that the client sent is the number of round trips.
 *
 *   R1  A flight counts once, however many pieces it or its answer travels in.
 *   R2  Two requests count twice when the second was sent after the answer to the first was delivered.
 *   R3  What a server says unasked counts nothing.
 *
 * HAZARD: without a delay an answer to the first piece of a flight can be back before the second piece is sent.
 * Counts are exact when the delay is longer than a client takes to write a flight.
 */
export interface LinkCounters {
  /** Connections that said something. */
  readonly connections: number
  readonly roundTrips: number
  /** Bytes that entered the link from clients. */
  readonly bytesTo: number
  /** Bytes of answers that were delivered to clients. */
  readonly bytesFrom: number
}

/** The sums over all connections of a link since the last reset. */
export class LinkMeter {
  readonly #counters = new Map<string, LinkCounters>()

  counters(): LinkCounters {
    return [...this.#counters.values()].reduce(sumOf, nothingCrossed)
  }

  /** Each by the name that its connections gave. */
  byApplication(): ReadonlyMap<string, LinkCounters> {
    return new Map(this.#counters)
  }

  /** Round trips under way are not counted again when their answer comes. */
  reset(): void {
    this.#counters.clear()
  }

  connect(): ConnectionMeter {
    return new ConnectionMeter((application, counted) => this.#add(application, counted))
  }

  #add(application: string, counted: Partial<LinkCounters>): void {
    this.#counters.set(
      application,
      sumOf(this.#counters.get(application) ?? nothingCrossed, { ...nothingCrossed, ...counted }),
    )
  }
}

/** The levels of one connection. The link gives each piece the level it entered with back at its delivery. */
export class ConnectionMeter {
  readonly #count: (application: string, counted: Partial<LinkCounters>) => void
  #application = ''
  #sentByClient = 0
  #atServer = 0
  #atClient = 0

  constructor(count: (application: string, counted: Partial<LinkCounters>) => void) {
    this.#count = count
  }

  /** The first bytes of the client are about to enter. What crosses from now on is counted under this name. */
  opened(application: string): void {
    this.#application = application
    this.#add({ connections: 1 })
  }

  /** Bytes entered the link from the client. Gives their level. */
  clientSent(bytes: number): number {
    const level = this.#atClient + 1
    this.#add({ bytesTo: bytes, roundTrips: level > this.#sentByClient ? 1 : 0 })
    this.#sentByClient = level
    return level
  }

  serverReceived(level: number): void {
    this.#atServer = level
  }

  /** Bytes entered the link from the server. Gives their level. */
  serverSent(): number {
    return this.#atServer
  }

  clientReceived(level: number, bytes: number): void {
    this.#atClient = level
    this.#add({ bytesFrom: bytes })
  }

  #add(counted: Partial<LinkCounters>): void {
    this.#count(this.#application, counted)
  }
}

export const nothingCrossed: LinkCounters = { connections: 0, roundTrips: 0, bytesTo: 0, bytesFrom: 0 }

export function sumOf(a: LinkCounters, b: LinkCounters): LinkCounters {
  return {
    connections: a.connections + b.connections,
    roundTrips: a.roundTrips + b.roundTrips,
    bytesTo: a.bytesTo + b.bytesTo,
    bytesFrom: a.bytesFrom + b.bytesFrom,
  }
}
