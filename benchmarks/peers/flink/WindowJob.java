import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.types.Row;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.Pipeline;

/**
 * The windows of Flink SQL, over one topic, into Redis: WindowJob BOOTSTRAP TOPIC tumbling|hopping REDIS_PORT DATABASE CHECKPOINTS.
 *
 * <p>RocksDB, exactly-once checkpoints each second, one task slot. What reaches Redis is at least once: a hash per user, a field per window.
 */
public final class WindowJob {
  private static final String PAYMENTS =
      "CREATE TABLE payments (`at` BIGINT, `user` STRING, amount DOUBLE, ts AS TO_TIMESTAMP_LTZ(`at` / 1000, 3),"
          + " WATERMARK FOR ts AS ts - INTERVAL '1' MINUTE) WITH ('connector' = 'kafka', 'topic' = '%s',"
          + " 'properties.bootstrap.servers' = '%s', 'scan.startup.mode' = 'earliest-offset',"
          + " 'scan.bounded.mode' = 'latest-offset', 'format' = 'json')";
  private static final String QUERY =
      "SELECT `user`, window_start, COUNT(*), SUM(amount), MIN(amount), MAX(amount) FROM TABLE(%s)"
          + " GROUP BY `user`, window_start, window_end";
  private static final String TUMBLING = "TUMBLE(TABLE payments, DESCRIPTOR(ts), INTERVAL '1' MINUTE)";
  private static final String HOPPING =
      "HOP(TABLE payments, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '10' MINUTES)";

  public static void main(String[] args) throws Exception {
    Configuration settings = new Configuration();
    settings.setString("state.backend.type", "rocksdb");
    settings.setString("execution.checkpointing.interval", "1 s");
    settings.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
    settings.setString("execution.checkpointing.dir", "file://" + args[5]);
    StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(1, settings);
    StreamTableEnvironment tables = StreamTableEnvironment.create(environment);
    tables.getConfig().set("table.local-time-zone", "UTC");
    tables.executeSql(String.format(PAYMENTS, args[1], args[0]));
    Table windows = tables.sqlQuery(String.format(QUERY, args[2].equals("hopping") ? HOPPING : TUMBLING));
    tables.toDataStream(windows).sinkTo(new RedisSink(Integer.parseInt(args[3]), Integer.parseInt(args[4])));
    environment.execute("windows");
  }

  /** Pipelines of 1,000, and whatever is there at a checkpoint. */
  private static final class RedisSink implements Sink<Row> {
    private final int port;
    private final int database;

    RedisSink(int port, int database) {
      this.port = port;
      this.database = database;
    }

    @Override
    public SinkWriter<Row> createWriter(WriterInitContext context) {
      Jedis jedis = new Jedis("127.0.0.1", port);
      jedis.select(database);
      return new Writer(jedis);
    }
  }

  private static final class Writer implements SinkWriter<Row> {
    private final Jedis jedis;
    private final Pipeline pipeline;
    private int waiting;

    Writer(Jedis jedis) {
      this.jedis = jedis;
      this.pipeline = jedis.pipelined();
    }

    @Override
    public void write(Row row, Context context) throws IOException, InterruptedException {
      long start = ((java.time.LocalDateTime) row.getField(1)).toEpochSecond(java.time.ZoneOffset.UTC);
      ByteBuffer value = ByteBuffer.allocate(32).order(ByteOrder.LITTLE_ENDIAN);
      value.putDouble(((Number) row.getField(2)).doubleValue());
      for (int i = 3; i < 6; i++) {
        value.putDouble((Double) row.getField(i));
      }
      pipeline.hset(
          ("peer:" + row.getField(0)).getBytes(StandardCharsets.UTF_8),
          Long.toString(start).getBytes(StandardCharsets.UTF_8),
          value.array());
      if (++waiting == 1000) {
        flush(false);
      }
    }

    @Override
    public void flush(boolean endOfInput) {
      pipeline.sync();
      waiting = 0;
    }

    @Override
    public void close() {
      pipeline.sync();
      jedis.close();
    }
  }
}
