"""The user service before the review, reconstructed from its findings, for ``make bench``.

Written the way such a service is written in a hurry, and not slower than that; only the requests
that are measured, and the health check. REVIEW.md's findings are named where each shows. The tables
are ours, so it fills in the columns that they need.
"""

import hashlib
import json
import os
from datetime import datetime

import psycopg2
import redis
from flask import Flask, jsonify, request
from psycopg2.extras import RealDictCursor

app = Flask(__name__)


# Connection pooling, pool initialisation: every request connects anew.
def get_db():
    return psycopg2.connect(os.environ["DATABASE_URL"], cursor_factory=RealDictCursor)


# Redis pooling: a new client, so a new connection, for every request.
def get_redis():
    return redis.Redis.from_url(os.environ["REDIS_URL"])


@app.route("/api/v1/users", methods=["GET"])
def get_users():
    try:
        r = get_redis()
        # Cache keys and invalidation: a key made of the URL, which no write can find again.
        key = "users_" + hashlib.md5(request.full_path.encode()).hexdigest()
        cached = r.get(key)
        if cached:
            return jsonify(json.loads(cached))
        conn = get_db()
        cur = conn.cursor()
        # Pagination: every user, with every column, in one response.
        cur.execute("SELECT * FROM users ORDER BY id")
        users = cur.fetchall()
        cur.close()
        # Connection clean-up: not reached when the query raises.
        conn.close()
        r.setex(key, 60, json.dumps(users, default=str))
        return jsonify(users)
    # Bare except: faults of the program and of the servers look alike.
    except:
        return jsonify({"error": "Failed to get users"}), 500


@app.route("/api/v1/users/<int:user_id>", methods=["GET"])
def get_user(user_id):
    try:
        conn = get_db()
        cur = conn.cursor()
        cur.execute("SELECT * FROM users WHERE id = %s", (user_id,))
        user = cur.fetchone()
        cur.close()
        conn.close()
        if not user:
            # Error consistency: another form than the framework's own 404, which is HTML.
            return jsonify({"message": "not found"}), 404
        return jsonify(user)
    except:
        return jsonify({"error": "Failed to get user"}), 500


@app.route("/api/v1/users", methods=["POST"])
def create_user():
    try:
        # Input validation: none; a missing member is an exception, the rest is the database's.
        data = request.get_json()
        conn = get_db()
        cur = conn.cursor()
        cur.execute(
            "INSERT INTO users (username, username_canonical, email, email_canonical)"
            " VALUES (%s, %s, %s, %s) RETURNING *",
            (data["username"], data["username"].lower(), data["email"], data["email"].lower()),
        )
        user = cur.fetchone()
        conn.commit()
        cur.close()
        conn.close()
        return jsonify(user), 201
    except Exception as e:
        # Error handling: clients see the database's own message. Retry: there is none anywhere.
        return jsonify({"error": str(e)}), 500


# Health check: asks nothing of what the service depends on. Timestamps: naive and local.
@app.route("/health")
def health():
    return jsonify({"status": "ok", "timestamp": str(datetime.now())})


# Debug mode: on, whatever the place.
if __name__ == "__main__":
    app.run(host="0.0.0.0", port=int(os.environ.get("PORT", 5000)), debug=True)
