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
  /** Connections accepted. */
  readonly connections: number
  readonly roundTrips: number
  /** Bytes that entered the link from clients. */
  readonly bytesTo: number
  /** Bytes of answers that were delivered to clients. */
  readonly bytesFrom: number
}

/** The sum over all connections of a link since the last reset. */
export class LinkMeter {
  #counters: LinkCounters = zero

  counters(): LinkCounters {
    return this.#counters
  }

  /** Round trips under way are not counted again when their answer comes. */
  reset(): void {
    this.#counters = zero
  }

  connect(): ConnectionMeter {
    this.#add({ connections: 1 })
    return new ConnectionMeter((counted) => this.#add(counted))
  }

  #add(counted: Partial<LinkCounters>): void {
    const { connections, roundTrips, bytesTo, bytesFrom } = this.#counters
    this.#counters = {
      connections: connections + (counted.connections ?? 0),
      roundTrips: roundTrips + (counted.roundTrips ?? 0),
      bytesTo: bytesTo + (counted.bytesTo ?? 0),
      bytesFrom: bytesFrom + (counted.bytesFrom ?? 0),
    }
  }
}

/** The levels of one connection. The link gives each piece the level it entered with back at its delivery. */
export class ConnectionMeter {
  readonly #count: (counted: Partial<LinkCounters>) => void
  #sentByClient = 0
  #atServer = 0
  #atClient = 0

  constructor(count: (counted: Partial<LinkCounters>) => void) {
    this.#count = count
  }

  /** Bytes entered the link from the client. Gives their level. */
  clientSent(bytes: number): number {
    const level = this.#atClient + 1
    this.#count({ bytesTo: bytes, roundTrips: level > this.#sentByClient ? 1 : 0 })
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
    this.#count({ bytesFrom: bytes })
  }
}

const zero: LinkCounters = { connections: 0, roundTrips: 0, bytesTo: 0, bytesFrom: 0 }
